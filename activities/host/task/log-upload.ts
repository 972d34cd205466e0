import type { RunCommand } from '../../../contracts/host.ts';
import type { LogTail } from '../../../drivers/ports/guest.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError, type ErrorCode } from '../../../model/errors.ts';
import { domainName } from '../vm/domain-names.ts';

const logChunkBytes = 256 * 1024;

/** A log as the repository has it is made of these, one after the other. */
type LogPart = { of: 'log' | 'tail'; from: number; bytes: number } | { of: 'notice'; text: Buffer };

/** What is known of a log when its command has ended; as far as the guest tells. */
interface KnownOfLog {
  logBytes: number | null;
  tail: LogTail | null;
}

const notice = (text: string): LogPart => ({ of: 'notice', text: Buffer.from(`\n[berth: ${text}]\n`) });

/** Ends a log of which the begin alone is kept, so that its end isn't taken for that of the output. */
const limitNotice = (limitBytes: number): LogPart =>
  notice(`this log has its limit of ${limitBytes} bytes; output after it was not kept`);

/** Where the begin of a log is followed by the end of the output. */
const gapNotice = (bytes: number): LogPart => notice(`${bytes} bytes of output are left out here`);

/** A log that is complete: its begin, what is said of the bytes between, and its end, from a ring. */
export function partsOfLog({ logBytes, tail }: KnownOfLog, limitBytes: number): LogPart[] {
  const head: LogPart = { of: 'log', from: 0, bytes: Math.min(logBytes ?? limitBytes, limitBytes) };
  if (tail === null) return [head];
  const { leftOutBytes, bytes, from } = tail;
  const gap = leftOutBytes > 0 ? [gapNotice(leftOutBytes)] : [];
  return [head, ...gap, { of: 'tail', from, bytes: bytes - from }, { of: 'tail', from: 0, bytes: from }];
}

const sizeOf = (part: LogPart): number => (part.of === 'notice' ? part.text.length : part.bytes);

/** Refusals of the repository that are about the log alone: a command that has ended well is not lost for its log. */
const logRefusals: ReadonlySet<ErrorCode> = new Set(['quota-exceeded', 'disk-full', 'too-large', 'conflict', 'outputs-refused']);

const repositoryAway: ReadonlySet<ErrorCode> = new Set(['repository-unavailable']);

const isOneOf = (error: unknown, codes: ReadonlySet<ErrorCode>): boolean => error instanceof BerthError && codes.has(error.code);

interface LogUploader {
  /** Uploads what there is; where the repository doesn't take it, the next call tries again. */
  upload(): Promise<void>;
  /** Uploads the rest; here the repository has to answer, but may refuse. */
  uploadRest(known: KnownOfLog): Promise<void>;
  bytes(): number;
}

/** @param ask calls the guest again while it is busy */
export function createLogUploader(
  { guest, repository }: HostPorts,
  { vm, log: { url, limitBytes } }: Pick<RunCommand, 'vm' | 'log'>,
  ask: <T>(call: () => Promise<T>) => Promise<T>,
  signal: AbortSignal,
): LogUploader {
  const name = domainName(vm.id);
  // A later attempt begins at 0 again: the repository ignores bytes that it has.
  let uploadedBytes = 0;

  async function readPart(part: LogPart, at: number): Promise<Buffer> {
    if (part.of === 'notice') return part.text.subarray(at);
    const read = part.of === 'log' ? guest.readLog : guest.readLogTail;
    return ask(() => read(name, part.from + at, Math.min(logChunkBytes, part.bytes - at)));
  }

  /** At an offset of the whole log; empty where the guest has no more of the part, or all of them are read. */
  async function read(parts: readonly LogPart[], offset: number): Promise<Buffer> {
    let start = 0;
    for (const part of parts) {
      const at = offset - start;
      if (at < sizeOf(part)) return readPart(part, at);
      start += sizeOf(part);
    }
    return Buffer.alloc(0);
  }

  async function uploadParts(parts: readonly LogPart[]): Promise<void> {
    for (;;) {
      const chunk = await read(parts, uploadedBytes);
      if (chunk.length === 0) return;
      const storedBytes = await repository.appendLog(url, uploadedBytes, chunk, signal);
      if (storedBytes === uploadedBytes)
        throw new BerthError('repository-unavailable', `uploading the log of ${name}: the repository took no byte of it`);
      // The repository may have lost bytes, and then reports fewer: the guest still has the whole log.
      uploadedBytes = Math.min(storedBytes, uploadedBytes + chunk.length);
    }
  }

  return {
    async upload() {
      try {
        await uploadParts(partsOfLog({ logBytes: null, tail: null }, limitBytes));
      } catch (error) {
        if (!isOneOf(error, logRefusals) && !isOneOf(error, repositoryAway)) throw error;
      }
    },
    async uploadRest(known) {
      const parts = partsOfLog(known, limitBytes);
      try {
        await uploadParts(parts);
        // Its length says nothing of what came after it. A later attempt finds the notice there already.
        if (known.tail === null && uploadedBytes >= limitBytes) await uploadParts([...parts, limitNotice(limitBytes)]);
      } catch (error) {
        if (!isOneOf(error, logRefusals)) throw error;
      }
    },
    bytes: () => uploadedBytes,
  };
}
