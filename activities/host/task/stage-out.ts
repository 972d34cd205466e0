import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type { StagedOut, StageOut, StoredOutput } from '../../../contracts/host.ts';
import type { DiskFile, DiskListing } from '../../../drivers/ports/disk-tool.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError, type ErrorCode } from '../../../model/errors.ts';
import { type ListedEntry, manifestEntry, manifestPath, type OutputManifest } from '../../../model/outputs/manifest.ts';
import { noneSkipped, type SkippedFiles, type SkipReason, skip } from '../../../model/outputs/skipped.ts';
import { allOrAbort, forEachParallel } from '../all-or-abort.ts';
import { domainName } from '../vm/domain-names.ts';
import { staysSuspended } from '../vm/suspend.ts';

const parallelUploads = 4;

/**
 * Flushes the data disk and stores the files that match, while the domain is being ended. docs/outputs.md has the syntax of
 * patterns.
 */
export async function stageOut(ports: HostPorts, request: StageOut, record: VmRecord, signal: AbortSignal): Promise<StagedOut> {
  await flushDataDisk(ports, request, record, signal);
  signal.throwIfAborted();
  // What an earlier attempt has stored and this one does not find is no output: the guest has removed it in between.
  const attempt = randomUUID();
  const staged: StagedOut = { outputs: [], attempt, bytes: 0, unmatched: [], skipped: noneSkipped(), endedAt: null };
  await allOrAbort(signal, [
    async () => {
      if (request.flushedElsewhere !== true) staged.endedAt = await destroyDomainEarly(ports, request);
    },
    async (anySignal) => {
      Object.assign(staged, await storeMatching(ports, request, attempt, anySignal));
    },
  ]);
  return staged.endedAt === null
    ? staged
    : { ...staged, endedAgoMs: Math.max(0, ports.clock.nowMs() - Date.parse(staged.endedAt)) };
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

type StoredOutputs = Required<Omit<StagedOut, 'endedAt' | 'endedAgoMs' | 'stored' | 'attempt'>>;

/** Stores what can be stored; what can't is skipped with its reason. */
async function storeMatching(ports: HostPorts, request: StageOut, attempt: string, signal: AbortSignal): Promise<StoredOutputs> {
  if (request.patterns.length === 0) return { outputs: [], bytes: 0, unmatched: [], skipped: noneSkipped() };
  const { data } = ports.store.paths(request.vm.id);
  const listing = await ports.diskTool.listFiles(data, request.patterns, request.limits.files, signal);
  const { matched, skipped } = listing;
  const files = withinLimits(listing.files, request.limits, skipped);
  const uploads = files.map((file): Upload => ({ ...file, open: () => ports.diskTool.readFile(data, file) }));
  const wanted = request.manifest ? withManifest(uploads, listing, skipped) : uploads;
  const outputs = await storeAll(ports, { ...request, attempt }, wanted, skipped, signal);
  const unmatched = request.patterns.filter((pattern) => !pattern.startsWith('!') && !matched.includes(pattern));
  return { outputs, bytes: outputs.reduce((sum, output) => sum + output.sizeBytes, 0), unmatched, skipped };
}

/** Takes files in the order of their paths, as long as they fit: those that a large one leaves no space for are skipped. */
function withinLimits(files: DiskFile[], { bytes, sparseBytes = bytes }: StageOut['limits'], skipped: SkippedFiles): DiskFile[] {
  let [data, size] = [0, 0];
  return files.sort(byPath).filter(({ path, dataBytes, sizeBytes }) => {
    const [nextData, nextSize] = [data + dataBytes, size + sizeBytes];
    const why =
      nextData > bytes
        ? `with its ${dataBytes} bytes of data, the outputs would have more than ${bytes}`
        : nextSize > sparseBytes
          ? `with its ${sizeBytes} bytes, the outputs would have more than ${sparseBytes}, holes included`
          : null;
    if (why !== null) {
      skip(skipped, { path, reason: 'too-large', detail: why });
      return false;
    }
    [data, size] = [nextData, nextSize];
    return true;
  });
}

/** Once: afterwards the record has `flushed`, and the domain may be gone. A VM that is suspended has no guest to ask. */
async function flushDataDisk(ports: HostPorts, request: StageOut, record: VmRecord, signal: AbortSignal): Promise<void> {
  if (record.flushed || request.flushedElsewhere === true) return;
  if (await staysSuspended(ports, record, signal)) return;
  const { guest, hypervisor, store } = ports;
  const name = domainName(request.vm.id);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `storing the outputs of ${name}: its domain ended before its disk was complete`);
  await guest.flushDataDisk(name);
  await store.writeNonDurable({ ...record, flushed: true });
}

interface Upload extends ListedEntry {
  sizeBytes: number;
  open(): Readable;
}

/** The manifest has what the listing has of those that are stored. It takes the place of a file of its name. */
function withManifest(uploads: Upload[], { folders, links }: DiskListing, skipped: SkippedFiles): Upload[] {
  const files = uploads.filter(({ path }) => path !== manifestPath);
  if (files.length < uploads.length)
    skip(skipped, { path: manifestPath, reason: 'refused', detail: 'the manifest of the outputs has this name' });
  const manifest: OutputManifest = {
    version: 1,
    files: files.map(manifestEntry),
    folders: folders.map(manifestEntry).sort(byPath),
    links: links.sort(byPath),
  };
  const content = Buffer.from(JSON.stringify(manifest));
  const open = (): Readable => Readable.from([content]);
  return [...files, { path: manifestPath, mode: 0o644, modifiedMs: 0, sizeBytes: content.length, open }];
}

const byPath = (a: { path: string }, b: { path: string }): number => (a.path < b.path ? -1 : 1);

async function storeAll(
  { repository }: HostPorts,
  { uploadUrl, node, attempt }: StageOut & { attempt: string },
  uploads: Upload[],
  skipped: SkippedFiles,
  signal: AbortSignal,
): Promise<StoredOutput[]> {
  const outputs: StoredOutput[] = [];
  await forEachParallel(uploads, parallelUploads, signal, async ({ path, sizeBytes, open }, anySignal) => {
    const content = open();
    try {
      const stored = await repository.storeOutput(uploadUrl, path, sizeBytes, content, anySignal, attempt);
      outputs.push({ path, node, ...stored });
    } catch (error) {
      if (!(error instanceof BerthError)) throw error;
      const reason = reasonsOfRefusal[error.code];
      if (reason === undefined) throw error;
      skip(skipped, { path, reason, detail: error.message });
    } finally {
      content.destroy();
    }
  });
  return outputs.sort(byPath);
}

/** Refusals of one file, which no retry changes: the others may be taken. */
const reasonsOfRefusal: Partial<Record<ErrorCode, SkipReason>> = {
  'too-large': 'too-large',
  'quota-exceeded': 'quota-exceeded',
  'disk-full': 'refused',
  'outputs-refused': 'refused',
};
