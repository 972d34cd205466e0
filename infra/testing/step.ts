import { spawn } from 'node:child_process';
import { killProcessGroup } from '../../drivers/host/run-process.ts';

/** One command of a check: what it is called, and what it came to. */
export interface Step {
  name: string;
  /** Node by default. */
  program?: string;
  argv: readonly string[];
  deadlineMs: number;
  env?: Record<string, string>;
  /** Shows its output as it comes; else it is kept, and shown by whoever wants it. */
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
/** After its end, for what is left of its output. */
const outputMs = 5000;

/**
 * Runs Node, or another program, with `argv` in a process group of its own. When `stop` aborts it gets SIGINT, as from a terminal, and the
 * group is killed when it hasn't ended a minute later; at its deadline likewise.
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
      // A process that it has left behind may hold its output open for ever.
      child.once('exit', (code) => setTimeout(() => resolve(code), outputMs).unref());
    });
    return { name: step.name, exitCode, seconds: (performance.now() - began) / 1000, output };
  } finally {
    clearTimeout(deadline);
    clearTimeout(force);
    stop.removeEventListener('abort', interrupt);
  }
}

/** Aborts at the first SIGINT, SIGTERM or SIGHUP; the process itself then ends when its steps have. */
export function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => controller.abort(new Error(name)));
  return controller.signal;
}
