import picomatch from 'picomatch';
import type { StagedOut, StageOut, StoredOutput } from '../../../contracts/host.ts';
import type { DiskFile } from '../../../drivers/ports/disk-tool.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { isTaskPath } from '../../../model/task.ts';
import { allOrAbort } from '../all-or-abort.ts';
import { domainName } from '../vm/domain-names.ts';

const parallelUploads = 4;
/** Files on the data disk, matching or not: more than this aren't looked at. */
const maxListedFiles = 200_000;

/**
 * Settles the data disk and stores what matches, while the domain is being ended.
 *
 * Patterns are picomatch globs on paths relative to /home/task: `*` stays within a folder, `**` doesn't, and neither
 * matches a name that begins with a dot unless the pattern says the dot.
 */
export async function stageOut(ports: HostPorts, request: StageOut, record: VmRecord, signal: AbortSignal): Promise<StagedOut> {
  await flushDataDisk(ports, request, record);
  signal.throwIfAborted();
  const staged: StagedOut = { outputs: [], bytes: 0, unmatched: [], endedAt: null };
  await allOrAbort(signal, [
    async () => {
      if (request.flushedElsewhere !== true) staged.endedAt = await destroyDomainEarly(ports, request);
    },
    async (either) => {
      Object.assign(staged, await storeMatching(ports, request, either));
    },
  ]);
  return staged;
}

/** A head start for the removal, whose task it is to end the domain: where that is refused, it is refused there. */
async function destroyDomainEarly({ hypervisor, clock }: HostPorts, request: StageOut): Promise<string | null> {
  try {
    await hypervisor.destroy(domainName(request.vm.id));
    return new Date(clock.nowMs()).toISOString();
  } catch (error) {
    if (error instanceof BerthError) return null;
    throw error;
  }
}

type StoredOutputs = Omit<StagedOut, 'endedAt'>;

async function storeMatching(ports: HostPorts, request: StageOut, signal: AbortSignal): Promise<StoredOutputs> {
  if (request.patterns.length === 0) return { outputs: [], bytes: 0, unmatched: [] };
  const { data } = ports.store.paths(request.vm.id);
  const { chosen, unmatched } = selectOutputs(await ports.diskTool.listFiles(data, maxListedFiles), request);
  const outputs = await storeAll(ports, request, data, chosen, signal);
  return { outputs, bytes: outputs.reduce((sum, output) => sum + output.sizeBytes, 0), unmatched };
}

/** Once: afterwards the record says so, and the domain may even be gone. */
async function flushDataDisk({ guest, hypervisor, store }: HostPorts, request: StageOut, record: VmRecord): Promise<void> {
  if (record.flushed || request.flushedElsewhere === true) return;
  const name = domainName(request.vm.id);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `taking the outputs out of ${name}: its domain ended before its disk was complete`);
  await guest.flushDataDisk(name);
  await store.writeNonDurable({ ...record, flushed: true });
}

function selectOutputs(files: DiskFile[], { patterns, limits }: StageOut): { chosen: DiskFile[]; unmatched: string[] } {
  const matchers = patterns.map((pattern) => ({ pattern, matches: picomatch(pattern, { dot: false }), hit: false }));
  const selected = files.filter((file) => {
    let any = false;
    for (const matcher of matchers)
      if (matcher.matches(file.path)) {
        matcher.hit = true;
        any = true;
      }
    return any;
  });
  const invalid = selected.find((file) => !isTaskPath(file.path));
  if (invalid !== undefined) throw refused(`${JSON.stringify(invalid.path)} matches, but is no name that an output may have`);
  if (selected.length > limits.files) throw refused(`${selected.length} files match, at most ${limits.files} are taken`);
  const bytes = selected.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (bytes > limits.bytes) throw refused(`what matches has ${bytes} bytes, at most ${limits.bytes} are taken`);
  return { chosen: selected, unmatched: matchers.filter(({ hit }) => !hit).map(({ pattern }) => pattern) };
}

const refused = (why: string): BerthError => new BerthError('outputs-refused', `taking the outputs out: ${why}`);

async function storeAll(
  ports: HostPorts,
  request: StageOut,
  image: string,
  files: DiskFile[],
  signal: AbortSignal,
): Promise<StoredOutput[]> {
  const outputs: StoredOutput[] = [];
  const queue = [...files];
  const worker = async (either: AbortSignal): Promise<void> => {
    for (let file = queue.shift(); file !== undefined && !either.aborted; file = queue.shift()) {
      const content = ports.diskTool.readFile(image, file);
      const stored = await ports.repository.storeOutput(request.uploadUrl, file.path, file.sizeBytes, content, either);
      outputs.push({ path: file.path, node: request.node, ...stored });
    }
  };
  await allOrAbort(
    signal,
    Array.from({ length: Math.min(parallelUploads, files.length) }, () => worker),
  );
  return outputs.sort((a, b) => (a.path < b.path ? -1 : 1));
}
