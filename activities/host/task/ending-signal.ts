/** Signals whose default is to stop a process, to continue it, or nothing (signal(7), x86): no process ends by them. */
const endsNothing = new Set([17, 18, 19, 20, 21, 22, 23, 28]);
const lastSignal = 64;

/**
 * The signal that an exit code stands for by the convention of shells, 128 and its number; null where the code can only be the
 * command's own. A command may exit with the same code by itself, so this is a guess, and told as one.
 */
export function endingSignal(exitCode: number): number | null {
  const signal = exitCode - 128;
  return signal >= 1 && signal <= lastSignal && !endsNothing.has(signal) ? signal : null;
}
