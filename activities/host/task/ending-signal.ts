import type { RunResult } from '../../../contracts/host.ts';
import { type JobResult, lastSignal } from '../../../drivers/ports/guest.ts';

/** Signals whose default is to stop a process, to continue it, or nothing (signal(7), x86): no process ends by them. */
const endsNothing = new Set([17, 18, 19, 20, 21, 22, 23, 28]);

/** The signal that ended a command: as its guest tells it, or guessed where what runs it there is too old to. */
export function endingSignal({
  exitCode,
  signal,
}: Pick<Extract<JobResult, { kind: 'exited' }>, 'exitCode' | 'signal'>): Pick<RunResult, 'signal' | 'signalTold'> {
  return signal === 'unknown' ? { signal: guessedSignal(exitCode) } : { signal, signalTold: true };
}

/**
 * The signal that an exit code stands for by the convention of shells, 128 and its number; null where the code can only be the
 * command's own. A command may exit with the same code by itself, so this is a guess, and reported as one.
 */
export function guessedSignal(exitCode: number): number | null {
  const signal = exitCode - 128;
  return signal >= 1 && signal <= lastSignal && !endsNothing.has(signal) ? signal : null;
}
