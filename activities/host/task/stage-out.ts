import type { StagedOut, StageOut, StoredOutput } from '../../../contracts/host.ts';
import type { DiskFile } from '../../../drivers/ports/disk-tool.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { Selection } from '../../../model/outputs/patterns.ts';
import { isTaskPath } from '../../../model/task.ts';
import { allOrAbort, forEachParallel } from '../all-or-abort.ts';
import { domainName } from '../vm/domain-names.ts';

const parallelUploads = 4;
/** Files on the data disk, matching or not: a disk with more is refused. */
const maxListedFiles = 200_000;

/**
 * Flushes the data disk and stores the files that match, while the domain is being ended. docs/outputs.md has the syntax of
 * patterns.
 */
export async function stageOut(ports: HostPorts, request: StageOut, record: VmRecord, signal: AbortSignal): Promise<StagedOut> {
  await flushDataDisk(ports, request, record);
  signal.throwIfAborted();
  const staged: StagedOut = { outputs: [], bytes: 0, unmatched: [], endedAt: null };
  await allOrAbort(signal, [
    async () => {
      if (request.flushedElsewhere !== true) staged.endedAt = await destroyDomainEarly(ports, request);
    },
    async (anySignal) => {
      Object.assign(staged, await storeMatching(ports, request, anySignal));
    },
  ]);
  return staged;
}

/** Ends the domain before its removal would, which saves time: a refusal is left to the removal, which ends the domain in any case. */
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
  const { selected, unmatched } = selectOutputs(await ports.diskTool.listFiles(data, maxListedFiles), request);
  const outputs = await storeAll(ports, request, data, selected, signal);
  return { outputs, bytes: outputs.reduce((sum, output) => sum + output.sizeBytes, 0), unmatched };
}

/** Once: afterwards the record has `flushed`, and the domain may be gone. */
async function flushDataDisk({ guest, hypervisor, store }: HostPorts, request: StageOut, record: VmRecord): Promise<void> {
  if (record.flushed || request.flushedElsewhere === true) return;
  const name = domainName(request.vm.id);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `storing the outputs of ${name}: its domain ended before its disk was complete`);
  await guest.flushDataDisk(name);
  await store.writeNonDurable({ ...record, flushed: true });
}

function selectOutputs(files: DiskFile[], { patterns, limits }: StageOut): { selected: DiskFile[]; unmatched: string[] } {
  const selection = new Selection(patterns);
  const matched = new Set<string>();
  const selected = files.filter((file) => {
    const found = selection.match(file.path);
    for (const pattern of found) matched.add(pattern);
    return found.length > 0;
  });
  const invalid = selected.find((file) => !isTaskPath(file.path));
  if (invalid !== undefined) throw refused(`${JSON.stringify(invalid.path)} matches, and is not a valid path of an output`);
  if (selected.length > limits.files) throw refused(`${selected.length} files match, at most ${limits.files} are taken`);
  const bytes = selected.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (bytes > limits.bytes) throw refused(`what matches has ${bytes} bytes, at most ${limits.bytes} are taken`);
  return { selected, unmatched: patterns.filter((pattern) => !pattern.startsWith('!') && !matched.has(pattern)) };
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
  await forEachParallel(files, parallelUploads, signal, async (file, anySignal) => {
    const content = ports.diskTool.readFile(image, file);
    const stored = await ports.repository.storeOutput(request.uploadUrl, file.path, file.sizeBytes, content, anySignal);
    outputs.push({ path: file.path, node: request.node, ...stored });
  });
  return outputs.sort((a, b) => (a.path < b.path ? -1 : 1));
}
