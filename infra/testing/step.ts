import { spawn } from 'node:child_process';
import { killProcessGroup } from '../../drivers/host/run-process.ts';

/** One command of a check. */
export interface Step {
  name: string;
  /** Default: Node. */
  program?: string;
  argv: readonly string[];
  deadlineMs: number;
  env?: Record<string, string>;
  /** Prints its output as it arrives; otherwise the output is kept for the caller. */
  live?: boolean;
}

export interface StepResult {
  name: string;
  /** null: ended by a signal, or at its deadline. */
  exitCode: number | null;
  seconds: number;
  output: string;
}

const keptBytes = 2 ** 20;
const graceMs = 60_000;
/** After its end, time to read the remaining output. */
const outputMs = 5000;

/**
 * Runs Node, or another program, with `argv` in a process group of its own. When `stop` aborts, the group gets SIGINT, as
 * from a terminal, and is killed if it hasn't ended a minute later; at its deadline likewise.
 */
export async function runStep(step: Step, stop: AbortSignal): Promise<StepResult> {
  const began = performance.now();
  const child = spawn(step.program ?? process.execPath, step.argv, {
    detached: true,
    stdio: ['ignore', step.live ? 'inherit' : 'pipe', step.live ? 'inherit' : 'pipe'],
    env: { ...process.env, ...step.env },
  });
  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-keptBytes);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  let force: NodeJS.Timeout | undefined;
  const interrupt = (): void => {
    child.kill('SIGINT');
    force ??= setTimeout(() => killProcessGroup(child), graceMs);
  };
  const deadline = setTimeout(() => {
    output += `\n${step.name}: not done after ${step.deadlineMs / 1000} s\n`;
    interrupt();
  }, step.deadlineMs);
  stop.addEventListener('abort', interrupt, { once: true });
  if (stop.aborted) interrupt();
  try {
    const exitCode = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
      // A process that it started may hold its output open indefinitely.
      child.once('exit', (code) => setTimeout(() => resolve(code), outputMs).unref());
    });
    return { name: step.name, exitCode, seconds: (performance.now() - began) / 1000, output };
  } finally {
    clearTimeout(deadline);
    clearTimeout(force);
    stop.removeEventListener('abort', interrupt);
  }
}

/** Aborts at the first SIGINT, SIGTERM or SIGHUP; the process itself then ends when its steps have ended. */
export function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => controller.abort(new Error(name)));
  return controller.signal;
}
