import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import type { StepMark } from '../../drivers/ports/step-marks.ts';
import { BerthError } from '../../model/errors.ts';

/** A step that has ended so many workers is not begun again. */
const maxCrashes = 2;
/** Of a step that was never repeated, because its task was cancelled. */
const markRetentionMs = 24 * 3600 * 1000;

/**
 * Keeps a step from ending its worker again and again, which would stall the work of everybody on this host. A step that
 * reads what strangers made is marked while it runs. The steps that ran when a worker crashed are suspects: each of them
 * runs alone, so that a second crash is its own, and then fails with `worker-crashed`.
 */
export interface CrashGuard {
  run<T>(vmId: string, step: string, signal: AbortSignal, act: () => Promise<T>): Promise<T>;
}

/** @param crashed the worker before this one was ended by a fault of its own, not by a signal from outside */
export function createCrashGuard({ stepMarks, clock }: Pick<HostPorts, 'stepMarks' | 'clock'>, crashed: boolean): CrashGuard {
  const marks = new Map<string, StepMark>();
  const turns = new StepTurns();
  const save = (): Promise<void> => stepMarks.save([...marks.values()]);
  const loaded = once(async () => {
    const found = (await stepMarks.load()).filter(({ sinceMs }) => clock.nowMs() - sinceMs < markRetentionMs);
    for (const mark of blame(found, crashed)) marks.set(keyOf(mark), mark);
    // The next worker must not find them as they were before this one counted.
    if (marks.size > 0) await save();
  });
  return {
    async run(vmId, step, signal, act) {
      await loaded();
      const key = keyOf({ vmId, step });
      const crashes = marks.get(key)?.crashes ?? 0;
      if (crashes >= maxCrashes) throw crashedError(vmId, step, crashes);
      const alone = crashes > 0;
      const release = await turns.take(alone, signal);
      try {
        marks.set(key, { vmId, step, open: true, alone, crashes, sinceMs: clock.nowMs() });
        await save();
        return await act();
      } finally {
        // It has ended, well or with an error: it is not what ends workers.
        marks.delete(key);
        release();
        await save();
      }
    },
  };
}

/** Signals by which the kernel, V8 or systemd's watchdog ends a process that went wrong. */
const crashSignals = /\b(SIG)?(ABRT|SEGV|BUS|ILL|FPE|TRAP|SYS)\b/;

/**
 * Whether a worker ended by a fault of its own, as its supervisor says in BERTH_PREVIOUS_END: a signal's name, or systemd's
 * SERVICE_RESULT and EXIT_STATUS. A SIGKILL may be anybody's.
 */
export const isCrash = (end: string): boolean => /^(watchdog|core-dump|oom-kill)\b/.test(end) || crashSignals.test(end);

const keyOf = ({ vmId, step }: Pick<StepMark, 'vmId' | 'step'>): string => `${vmId} ${step}`;

/** Those that ran count the crash; where one of them ran alone, it is that one. */
function blame(marks: StepMark[], crashed: boolean): StepMark[] {
  return marks.map((mark) => ({ ...mark, open: false, alone: false, crashes: mark.crashes + (crashed && mark.open ? 1 : 0) }));
}

const crashedError = (vmId: string, step: string, crashes: number): BerthError =>
  new BerthError(
    'worker-crashed',
    `${step} of ${vmId} ended the host worker ${crashes} times, the last time while it ran alone: it is not tried again. The worker's log says how it ended`,
  );

function once(act: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | null = null;
  return () => {
    done ??= act();
    return done;
  };
}

/** Any number of steps, or one alone. Those that wait to be alone go before others. */
class StepTurns {
  #together = 0;
  #aloneRuns = false;
  #suspects = 0;
  readonly #wakeUps = new Set<() => void>();

  async take(alone: boolean, signal: AbortSignal): Promise<() => void> {
    if (!alone) {
      while (this.#suspects > 0) await this.#changed(signal);
      this.#together += 1;
      return () => {
        this.#together -= 1;
        this.#wakeAll();
      };
    }
    this.#suspects += 1;
    const leave = (): void => {
      this.#suspects -= 1;
      this.#wakeAll();
    };
    try {
      while (this.#aloneRuns || this.#together > 0) await this.#changed(signal);
    } catch (error) {
      leave();
      throw error;
    }
    this.#aloneRuns = true;
    return () => {
      this.#aloneRuns = false;
      leave();
    };
  }

  #wakeAll(): void {
    for (const wakeUp of this.#wakeUps) wakeUp();
  }

  async #changed(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wakeUps.add(resolve);
    signal.addEventListener('abort', () => resolve(), { once: true });
    await promise;
    this.#wakeUps.delete(resolve);
    signal.throwIfAborted();
  }
}
