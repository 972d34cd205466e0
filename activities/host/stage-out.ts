import picomatch from 'picomatch';
import type { DiskFile, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import { isTaskPath } from '../../model/task.ts';
import type { StageOut, StoredOutput } from './contract.ts';
import { domainName } from './names.ts';

const parallelUploads = 4;
/** Files on the data disk, matching or not: more than this aren't looked at. */
const listedFiles = 200_000;

export interface StagedOut {
  outputs: StoredOutput[];
  bytes: number;
  unmatched: string[];
}

/**
 * Settles the data disk and stores what matches. The guest may live on, it no longer writes there.
 *
 * Patterns are picomatch globs on paths relative to /home/task: `*` stays within a folder, `**` doesn't, and neither
 * matches a name that begins with a dot unless the pattern says the dot.
 */
export async function stageOut(ports: HostPorts, order: StageOut, record: VmRecord, signal: AbortSignal): Promise<StagedOut> {
  const { store, disks } = ports;
  await settle(ports, order, record);
  signal.throwIfAborted();
  if (order.patterns.length === 0) return { outputs: [], bytes: 0, unmatched: [] };
  const { data } = store.paths(order.vm.id);
  const { chosen, unmatched } = choose(await disks.listFiles(data, listedFiles), order);
  const outputs = await storeAll(ports, order, data, chosen, signal);
  return { outputs, bytes: outputs.reduce((sum, output) => sum + output.sizeBytes, 0), unmatched };
}

/** Once: afterwards the record says so, and the domain may even be gone. */
async function settle({ guest, hypervisor, store }: HostPorts, order: StageOut, record: VmRecord): Promise<void> {
  if (record.settled || order.settledElsewhere === true) return;
  const name = domainName(order.vm.id);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `taking the outputs out of ${name}: its domain ended before its disk was complete`);
  await guest.settle(name);
  await store.write({ ...record, settled: true });
}

function choose(files: DiskFile[], { patterns, limits }: StageOut): { chosen: DiskFile[]; unmatched: string[] } {
  const matchers = patterns.map((pattern) => ({ pattern, matches: picomatch(pattern, { dot: false }), hit: false }));
  const chosen = files.filter((file) => {
    let any = false;
    for (const matcher of matchers)
      if (matcher.matches(file.path)) {
        matcher.hit = true;
        any = true;
      }
    return any;
  });
  const odd = chosen.find((file) => !isTaskPath(file.path));
  if (odd !== undefined) throw refused(`${JSON.stringify(odd.path)} matches, but is no name that an output may have`);
  if (chosen.length > limits.files) throw refused(`${chosen.length} files match, at most ${limits.files} are taken`);
  const bytes = chosen.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (bytes > limits.bytes) throw refused(`what matches has ${bytes} bytes, at most ${limits.bytes} are taken`);
  return { chosen, unmatched: matchers.filter(({ hit }) => !hit).map(({ pattern }) => pattern) };
}

const refused = (why: string): BerthError => new BerthError('outputs-refused', `taking the outputs out: ${why}`);

async function storeAll(
  ports: HostPorts,
  order: StageOut,
  image: string,
  files: DiskFile[],
  signal: AbortSignal,
): Promise<StoredOutput[]> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const outputs: StoredOutput[] = [];
  const queue = [...files];
  const worker = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined && !either.aborted; file = queue.shift()) {
      const content = ports.disks.readFile(image, file);
      const stored = await ports.repository.storeOutput(order.uploadUrl, file.path, file.sizeBytes, content, either);
      outputs.push({ path: file.path, node: order.node, ...stored });
    }
  };
  await Promise.allSettled(
    Array.from({ length: Math.min(parallelUploads, files.length) }, () =>
      worker().catch((error: unknown) => failed.abort(error)),
    ),
  );
  either.throwIfAborted();
  return outputs.sort((a, b) => (a.path < b.path ? -1 : 1));
}
