import { join } from 'node:path';
import type { FetchOrder, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import { isTaskPath } from '../../model/task.ts';
import { allOrNone } from './all-or-none.ts';
import type { InputFile, StagedIn, StageIn } from './contract.ts';
import { ensureDisks } from './ensure-disks.ts';

/** Connections at a time: enough to hide latency, few enough not to starve other tasks of this host. */
const parallelFetches = 4;

/** All that a VM needs of its host before it starts, side by side: the data disk with the inputs, the overlay, the network. */
export async function stageIn(ports: HostPorts, order: StageIn, record: VmRecord, signal: AbortSignal): Promise<StagedIn> {
  const staged: StagedIn = { bytes: 0, image: 'cache' };
  await allOrNone(signal, [
    async (either) => {
      staged.bytes = await ensureDataDisk(ports, order, record, either);
    },
    async (either) => {
      staged.image = await ensureDisks(ports, order.vm, either);
    },
  ]);
  return staged;
}

/** Collects the inputs in a folder of the VM and makes the data disk of it. Done already: the record says so. */
async function ensureDataDisk(ports: HostPorts, order: StageIn, record: VmRecord, signal: AbortSignal): Promise<number> {
  const { store, disks } = ports;
  const { vm } = order;
  const paths = store.paths(vm.id);
  if (record.staged !== null && (await disks.exists(paths.data))) return record.staged.bytes;

  const folder = await store.emptyInputs(vm.id);
  const bytes = await fetchAll(ports, order, folder, signal);
  signal.throwIfAborted();
  await disks.createDataDisk(paths.data, folder, vm.diskMiB);
  await store.removeInputs(vm.id);
  await store.note({ ...record, staged: { bytes } });
  return bytes;
}

/** Returns the bytes of all inputs. */
async function fetchAll(ports: HostPorts, order: StageIn, folder: string, signal: AbortSignal): Promise<number> {
  const capacityBytes = order.vm.diskMiB * 2 ** 20;
  const queue = [...order.inputs];
  let bytes = 0;
  const worker = async (either: AbortSignal): Promise<void> => {
    for (let input = queue.shift(); input !== undefined; input = queue.shift()) {
      const fetched = await ports.inputs.fetch(fetchOrder(order, input, folder, capacityBytes - bytes), either);
      bytes += fetched.sizeBytes;
      if (bytes > capacityBytes)
        throw new BerthError('inputs-too-large', `the inputs have more than the ${order.vm.diskMiB} MiB of the data disk`);
    }
  };
  await allOrNone(
    signal,
    Array.from({ length: parallelFetches }, () => worker),
  );
  return bytes;
}

function fetchOrder(order: StageIn, input: InputFile, folder: string, roomBytes: number): FetchOrder {
  if (!isTaskPath(input.path))
    throw new BerthError('bad-request', `staging in ${JSON.stringify(input.path)}: this is no path inside /home/task`);
  const outside = input.source === 'outside';
  return {
    url: input.url,
    source: input.source,
    sizeBytes: input.sizeBytes,
    sha256: input.sha256,
    destination: join(folder, input.path),
    limitBytes: outside ? Math.min(order.limits.outsideBytes, roomBytes) : roomBytes,
    limitSeconds: order.limits.outsideSeconds,
    allowInternal: order.limits.allowInternal,
  };
}
