import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../model/log.ts';

/** A loop that runs in the background. */
export interface Repeating {
  /** Resolves when the step that runs at that moment has ended; no other one begins. */
  stop(): Promise<void>;
}

interface Loop {
  /** Answers `more` where its next run must not wait for the interval. */
  step: () => Promise<'done' | 'more'>;
  /** A function is asked before each pause. */
  intervalMs: number | (() => number);
  log: Logger;
  /** What is logged when a step has failed. */
  failure: string;
  /** `error` where nothing but the next run does the step's work. */
  level: 'warn' | 'error';
}

/** Runs a step, waits, and runs it again until it is stopped. A step that fails is logged, and runs again after the interval. */
export function startRepeating({ step, intervalMs, log, failure, level }: Loop): Repeating {
  const stopping = new AbortController();
  const { signal } = stopping;
  const run = async (): Promise<void> => {
    while (!signal.aborted) {
      try {
        if ((await step()) === 'more') continue;
      } catch (error) {
        log[level]({ err: error }, failure);
      }
      await delay(typeof intervalMs === 'number' ? intervalMs : intervalMs(), undefined, { signal }).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
  };
  const running = run();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
