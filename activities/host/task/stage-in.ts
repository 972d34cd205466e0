import { join } from 'node:path';
import type { InputFile, StagedIn, StageIn } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { FetchRequest } from '../../../drivers/ports/input-fetcher.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { isTaskPath } from '../../../model/task.ts';
import { allOrAbort, forEachParallel } from '../all-or-abort.ts';
import { ensureDisks } from '../vm/ensure-disks.ts';

/** Connections at a time: enough to hide latency, few enough not to starve other tasks of this host. */
const parallelFetches = 4;

/** Makes all that a VM needs on its host before it starts, in parallel: the data disk with the inputs, the overlay, the network. */
export async function stageIn(ports: HostPorts, request: StageIn, record: VmRecord, signal: AbortSignal): Promise<StagedIn> {
  const staged: StagedIn = { bytes: 0, image: 'cache' };
  await allOrAbort(signal, [
    async (anySignal) => {
      staged.bytes = await ensureDataDisk(ports, request, record, anySignal);
    },
    async (anySignal) => {
      staged.image = await ensureDisks(ports, request.vm, anySignal);
    },
  ]);
  return staged;
}

/** Fetches the inputs into a folder of the VM and makes the data disk from it, unless the record says that it is made. */
async function ensureDataDisk(ports: HostPorts, request: StageIn, record: VmRecord, signal: AbortSignal): Promise<number> {
  const { store, diskTool } = ports;
  const { vm } = request;
  const paths = store.paths(vm.id);
  if (record.staged !== null && (await diskTool.exists(paths.data))) return record.staged.bytes;

  const folder = await store.resetInputs(vm.id);
  const bytes = await fetchAll(ports, request, folder, signal);
  signal.throwIfAborted();
  await diskTool.createDataDisk(paths.data, folder, vm.diskMiB);
  await store.removeInputs(vm.id);
  await store.writeNonDurable({ ...record, staged: { bytes } });
  return bytes;
}

/** Returns the bytes of all inputs. */
async function fetchAll(ports: HostPorts, request: StageIn, folder: string, signal: AbortSignal): Promise<number> {
  const capacityBytes = request.vm.diskMiB * 2 ** 20;
  let bytes = 0;
  await forEachParallel(request.inputs, parallelFetches, signal, async (input, anySignal) => {
    const fetched = await ports.inputFetcher.fetch(fetchRequest(request, input, folder, capacityBytes - bytes), anySignal);
    bytes += fetched.sizeBytes;
    if (bytes > capacityBytes)
      throw new BerthError('inputs-too-large', `the inputs have more than the ${request.vm.diskMiB} MiB of the data disk`);
  });
  return bytes;
}

function fetchRequest(request: StageIn, input: InputFile, folder: string, freeBytes: number): FetchRequest {
  if (!isTaskPath(input.path))
    throw new BerthError('bad-request', `staging in ${JSON.stringify(input.path)}: this is no path inside /home/task`);
  const outside = input.source === 'outside';
  return {
    url: input.url,
    source: input.source,
    sizeBytes: input.sizeBytes,
    sha256: input.sha256,
    destination: join(folder, input.path),
    ...(input.mode !== undefined && { mode: Number.parseInt(input.mode, 8) }),
    limitBytes: outside ? Math.min(request.limits.outsideBytes, freeBytes) : freeBytes,
    limitSeconds: request.limits.outsideSeconds,
    allowInternal: request.limits.allowInternal,
  };
}
