import { rm } from 'node:fs/promises';
import { statOrNull } from '../host/files.ts';
import { ProcessError, run } from '../host/run-process.ts';

interface NfsCopy {
  /** Of the host that has the file. */
  address: string;
  path: string;
  /** Replaced where it exists: nfs-cp refuses that. */
  destination: string;
  sizeBytes: number;
  /** Updated at each poll. */
  progress?: { doneBytes: number };
}

interface StallPolicy {
  pollMs: number;
  /** A copy that has received nothing for this long hangs. */
  stallMs: number;
  attempts: number;
}

const defaultStallPolicy: StallPolicy = { pollMs: 500, stallMs: 10_000, attempts: 3 };
/** Below 1 MiB/s a network is of no use. */
const deadlineMs = (sizeBytes: number): number => 30_000 + (sizeBytes / 2 ** 20) * 1000;

/** For a file of a MiB that somebody may wait for. */
export const quickStallPolicy: StallPolicy = { pollMs: 200, stallMs: 1500, attempts: 1 };

class StalledError extends Error {}

/**
 * Copies a file of another host to this one. nfs-cp now and then hangs for ever although its server works: a copy that
 * stalls is killed and started again, long before the deadline, which allows for a slow network. Throws ProcessError.
 */
export async function copyOverNfs(copy: NfsCopy, stallPolicy: StallPolicy = defaultStallPolicy): Promise<void> {
  const { attempts } = stallPolicy;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await copyOnce(copy, stallPolicy);
    } catch (error) {
      if (!(error instanceof StalledError)) throw error;
      if (attempt >= attempts) throw new ProcessError(argvOf(copy), 'deadline', null, '', `${error.message}, ${attempts} times`);
    }
  }
}

const argvOf = ({ address, path, destination }: NfsCopy): [string, ...string[]] => [
  'nfs-cp',
  `nfs://${address}${path}`,
  destination,
];

async function copyOnce(copy: NfsCopy, { pollMs, stallMs }: StallPolicy): Promise<void> {
  await rm(copy.destination, { force: true });
  const stalled = new AbortController();
  let bytes = 0;
  let lastProgressMs = performance.now();
  const poll = async (): Promise<void> => {
    const now = (await statOrNull(copy.destination))?.size ?? 0;
    if (now !== bytes) lastProgressMs = performance.now();
    bytes = now;
    if (copy.progress !== undefined) copy.progress.doneBytes = now;
    if (performance.now() - lastProgressMs > stallMs) stalled.abort(new StalledError(`brought nothing for ${stallMs / 1000} s`));
  };
  const timer = setInterval(() => void poll().catch((error: unknown) => stalled.abort(error)), pollMs);
  try {
    await run(argvOf(copy), { deadlineMs: deadlineMs(copy.sizeBytes), signal: stalled.signal });
  } finally {
    clearInterval(timer);
  }
}
