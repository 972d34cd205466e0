import { rm, stat } from 'node:fs/promises';
import { isErrno } from '../host/files.ts';
import { ProcessError, run } from '../host/run-process.ts';

export interface NfsCopy {
  /** Of the host that has the file. */
  address: string;
  path: string;
  /** What is there is replaced: nfs-cp refuses to. */
  destination: string;
  sizeBytes: number;
  /** Told now and then how much is there. */
  progress?: { doneBytes: number };
  /** For tests. */
  stallPolicy?: Partial<StallPolicy>;
}

interface StallPolicy {
  pollMs: number;
  /** A copy that brought nothing for this long hangs. */
  stallMs: number;
  attempts: number;
}

const stallPolicy: StallPolicy = { pollMs: 500, stallMs: 10_000, attempts: 3 };
/** A network that carries less than 1 MiB/s is none. */
const deadlineMs = (sizeBytes: number): number => 30_000 + (sizeBytes / 2 ** 20) * 1000;

class StalledError extends Error {}

/**
 * Copies a file of another host to this one. nfs-cp now and then hangs for ever, its server being well: one that brings
 * nothing any more is ended and begun again, long before a deadline that a slow network has to meet. Throws ProcessError.
 */
export async function copyOverNfs(copy: NfsCopy): Promise<void> {
  const { attempts } = { ...stallPolicy, ...copy.stallPolicy };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await copyOnce(copy);
    } catch (error) {
      if (!(error instanceof StalledError)) throw error;
      if (attempt >= attempts) throw new ProcessError(argvOf(copy), 'deadline', null, '', `${error.message}, ${attempts} times`);
    }
  }
}

const argvOf = ({ address, path, destination: to }: NfsCopy): [string, ...string[]] => ['nfs-cp', `nfs://${address}${path}`, to];

async function copyOnce(copy: NfsCopy): Promise<void> {
  const { pollMs: lookMs, stallMs } = { ...stallPolicy, ...copy.stallPolicy };
  await rm(copy.destination, { force: true });
  const stalled = new AbortController();
  let bytes = 0;
  let lastProgressMs = performance.now();
  const poll = async (): Promise<void> => {
    const now = await sizeOf(copy.destination);
    if (now !== bytes) lastProgressMs = performance.now();
    bytes = now;
    if (copy.progress !== undefined) copy.progress.doneBytes = now;
    if (performance.now() - lastProgressMs > stallMs) stalled.abort(new StalledError(`brought nothing for ${stallMs / 1000} s`));
  };
  const timer = setInterval(() => void poll().catch((error: unknown) => stalled.abort(error)), lookMs);
  try {
    await run(argvOf(copy), { deadlineMs: deadlineMs(copy.sizeBytes), signal: stalled.signal });
  } finally {
    clearInterval(timer);
  }
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
