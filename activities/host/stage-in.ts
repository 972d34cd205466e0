import { join } from 'node:path';
import type { FetchOrder, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import { isTaskPath } from '../../model/task.ts';
import type { InputFile, StageIn } from './contract.ts';

/** Connections at a time: enough to hide latency, few enough not to starve other tasks of this host. */
const parallelFetches = 4;

/** Collects the inputs in a folder of the VM and makes the data disk of it. Done already: the record says so. */
export async function stageIn(
  ports: HostPorts,
  order: StageIn,
  record: VmRecord,
  signal: AbortSignal,
): Promise<{ bytes: number }> {
  const { store, disks } = ports;
  const { vm } = order;
  const paths = store.paths(vm.id);
  if (record.staged !== null && (await disks.exists(paths.data))) return record.staged;

  const folder = await store.emptyInputs(vm.id);
  const bytes = await fetchAll(ports, order, folder, signal);
  signal.throwIfAborted();
  await disks.createDataDisk(paths.data, folder, vm.diskMiB);
  await store.removeInputs(vm.id);
  const staged = { bytes };
  await store.write({ ...record, staged });
  return staged;
}

/** All or none: the first failure ends the others. Returns the bytes of all inputs. */
async function fetchAll(ports: HostPorts, order: StageIn, folder: string, signal: AbortSignal): Promise<number> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const capacityBytes = order.vm.diskMiB * 2 ** 20;
  const queue = [...order.inputs];
  let bytes = 0;
  const worker = async (): Promise<void> => {
    for (let input = queue.shift(); input !== undefined; input = queue.shift()) {
      const fetched = await ports.inputs.fetch(fetchOrder(order, input, folder, capacityBytes - bytes), either);
      bytes += fetched.sizeBytes;
      if (bytes > capacityBytes)
        throw new BerthError('inputs-too-large', `the inputs have more than the ${order.vm.diskMiB} MiB of the data disk`);
    }
  };
  const workers = Array.from({ length: parallelFetches }, () =>
    worker().catch((error: unknown) => {
      failed.abort(error);
      throw error;
    }),
  );
  const results = await Promise.allSettled(workers);
  if (failed.signal.aborted) throw failed.signal.reason;
  signal.throwIfAborted();
  for (const result of results) if (result.status === 'rejected') throw result.reason;
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
