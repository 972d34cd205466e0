import { Worker } from 'node:worker_threads';
import { BerthError, type ErrorCode } from '../../../model/errors.ts';
import { noneSkipped, skip } from '../../../model/outputs/skipped.ts';
import type { DiskListing } from '../../ports/disk-tool.ts';
import type { ReadBudget } from './budget.ts';

export interface ListRequest {
  image: string;
  patterns: readonly string[];
  budget: ReadBudget;
}

export type ListReply = { kind: 'listing'; listing: DiskListing } | { kind: 'refused'; code: ErrorCode; message: string };

/** Paths, runs and the names of folders that links lead into have 32 MiB at most. */
const usualHeapMiB = 256;

/** The thread counts its seconds itself; this is for one that does not come to that. */
const usualGraceMs = 10_000;
const readerScript = new URL('./list-thread.ts', import.meta.url);

interface ListerOptions {
  script?: URL;
  graceMs?: number;
  heapMiB?: number;
}

export interface Lister {
  list(request: ListRequest, signal: AbortSignal): Promise<DiskListing>;
}

/**
 * Lists files of guests' disks, each in a thread of its own: what a guest made of its disk costs neither the host worker's
 * event loop nor its memory. One thread is kept ready, since starting one takes 60 ms.
 */
export function createLister({
  script = readerScript,
  graceMs = usualGraceMs,
  heapMiB = usualHeapMiB,
}: ListerOptions = {}): Lister {
  const resourceLimits = { maxOldGenerationSizeMb: heapMiB, maxYoungGenerationSizeMb: 16, stackSizeMb: 4 };
  let ready: Worker | null = null;
  const startThread = (): Worker => {
    const thread = new Worker(script, { resourceLimits });
    thread.unref();
    const forget = (): void => {
      if (ready === thread) ready = null;
    };
    // An error without a listener would end the process.
    return thread.on('error', forget).on('exit', forget);
  };
  ready = startThread();
  return {
    async list(request, signal) {
      signal.throwIfAborted();
      const thread = ready ?? startThread();
      ready = null;
      try {
        return await ask(thread, request, graceMs, signal);
      } finally {
        await thread.terminate();
        // Not before: starting a thread takes a processor from the one that reads.
        ready ??= startThread();
      }
    },
  };
}

function ask(thread: Worker, request: ListRequest, graceMs: number, signal: AbortSignal): Promise<DiskListing> {
  const { promise, resolve, reject } = Promise.withResolvers<DiskListing>();
  const { seconds } = request.budget;
  const giveUp = (detail: string): void => {
    const skipped = noneSkipped();
    skip(skipped, { path: '', reason: 'budget-spent', detail });
    resolve({ files: [], folders: [], links: [], matched: [], skipped });
  };
  const timer = setTimeout(() => giveUp(`reading the disk took more than ${seconds} s`), seconds * 1000 + graceMs);
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  thread.once('message', (reply: ListReply) => {
    if (reply.kind === 'listing') resolve(reply.listing);
    else reject(new BerthError(reply.code, reply.message));
  });
  thread.once('error', (error: Error & { code?: string }) => {
    if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') giveUp('reading the disk took more memory than it may');
    else reject(new Error(`BUG: the reader of ${request.image} failed: ${error.message}`, { cause: error }));
  });
  thread.once('exit', (code) => reject(new Error(`BUG: the reader of ${request.image} ended with ${code}`)));
  thread.ref();
  thread.postMessage(request);
  return promise.finally(() => {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  });
}
