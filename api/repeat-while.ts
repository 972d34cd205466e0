import type { Logger } from '../model/log.ts';

interface Repetition {
  isNeeded: () => boolean;
  act: () => Promise<void>;
  everyMs: number;
  log: Logger;
  /** What is logged when an act has failed. */
  failure: string;
}

/**
 * Acts again and again for as long as that is needed, once at a time. @returns what begins it, to be called when it may be needed: it
 * does nothing where it has begun
 */
export function repeatWhile({ isNeeded, act, everyMs, log, failure }: Repetition): () => void {
  let timer: NodeJS.Timeout | null = null;
  const schedule = (): void => {
    if (timer !== null || !isNeeded()) return;
    timer = setTimeout(async () => {
      try {
        if (isNeeded()) await act();
      } catch (error) {
        log.warn({ err: error }, failure);
      }
      timer = null;
      schedule();
    }, everyMs);
    timer.unref();
  };
  return schedule;
}
