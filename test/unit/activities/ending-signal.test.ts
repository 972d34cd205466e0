import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { endingSignal, guessedSignal } from '../../../activities/host/task/ending-signal.ts';

/** How a shell reports a process that sends itself this signal, or exits with 0 where it survives. */
function reportOf(signal: number): number {
  // Stopped processes are continued, so that they come to their end.
  const script = `sh -c 'kill -${signal} $$; exit 0' & p=$!; sleep 0.05; kill -CONT $p 2>/dev/null; wait $p; echo $?`;
  return Number(execFileSync('sh', ['-c', script], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim());
}

it.each([17, 18, 20, 21, 22, 23, 28])('signal %i ends no process, so `exit 128+%i` is the command’s own', (signal) => {
  expect(reportOf(signal)).not.toBe(128 + signal);
  expect(guessedSignal(128 + signal)).toBeNull();
});

it.each([1, 6, 9, 11, 13, 15, 31])('signal %i ends a process', (signal) => {
  expect(reportOf(signal)).toBe(128 + signal);
  expect(guessedSignal(128 + signal)).toBe(signal);
});

it.each([0, 1, 127, 128, 150, 193, 255])('exit code %i stands for no signal', (exitCode) => {
  expect(guessedSignal(exitCode)).toBeNull();
});

it('what a guest tells of its command is no guess, and what an older one leaves out is', () => {
  expect(endingSignal({ exitCode: 137, signal: null })).toEqual({ signal: null, signalTold: true });
  expect(endingSignal({ exitCode: 137, signal: 9 })).toEqual({ signal: 9, signalTold: true });
  expect(endingSignal({ exitCode: 137, signal: 'unknown' })).toEqual({ signal: 9 });
  expect(endingSignal({ exitCode: 150, signal: 'unknown' })).toEqual({ signal: null });
});
