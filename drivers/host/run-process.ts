import { type ChildProcess, spawn } from 'node:child_process';
import { isErrno } from './files.ts';

/** A child process always has a deadline and an output limit. */
export interface RunOptions {
  deadlineMs: number;
  /** The most that standard output may have, in bytes; 1 MiB unless said. */
  limitBytes?: number;
  input?: string | Buffer;
  signal?: AbortSignal;
  env?: Record<string, string>;
}

/** Why a child process failed: the command, how it ended and the last lines of its standard error. */
export class ProcessError extends Error {
  readonly argv: readonly string[];
  readonly why: 'exit' | 'deadline' | 'output' | 'absent';
  readonly exitCode: number | null;
  readonly stderr: string;

  constructor(argv: readonly string[], why: ProcessError['why'], exitCode: number | null, stderr: string, detail: string) {
    const lastLines = stderr.trim().split('\n').slice(-4).join(' | ');
    super(`${argv.map(truncateWord).join(' ')}: ${detail}${lastLines === '' ? '' : `: ${lastLines}`}`);
    this.name = 'ProcessError';
    this.argv = argv;
    this.why = why;
    this.exitCode = exitCode;
    this.stderr = stderr;
  }
}

const stderrBytes = 16 * 1024;
const truncateWord = (word: string): string => (word.length > 200 ? `${word.slice(0, 200)}…` : word);

/**
 * Runs a program to its end and returns its standard output. It gets its own process group, all of which is killed at the
 * deadline, at the output limit and when the signal aborts (then the signal's reason is thrown). Throws ProcessError.
 */
export async function run(argv: readonly [string, ...string[]], options: RunOptions): Promise<string> {
  options.signal?.throwIfAborted();
  const [program, ...args] = argv;
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true, env: options.env ?? process.env });
  const limitBytes = options.limitBytes ?? 2 ** 20;
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  let stderr = '';
  let stopped: 'deadline' | 'output' | 'signal' | null = null;
  const stop = (why: 'deadline' | 'output' | 'signal'): void => {
    stopped ??= why;
    killProcessGroup(child);
  };
  const timer = setTimeout(() => stop('deadline'), options.deadlineMs);
  const onAbort = (): void => stop('signal');
  options.signal?.addEventListener('abort', onAbort, { once: true });
  child.stdout.on('data', (chunk: Buffer) => {
    stdoutBytes += chunk.length;
    if (stdoutBytes > limitBytes) stop('output');
    else stdout.push(chunk);
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-stderrBytes);
  });
  // A child that ends without reading its input is no error by itself: the exit code decides.
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input);
  try {
    const { exitCode, absent } = await awaitExit(child);
    if (absent !== null) throw new ProcessError(argv, 'absent', null, '', absent);
    if (stopped === 'signal') throw options.signal?.reason;
    if (stopped === 'deadline') throw new ProcessError(argv, 'deadline', null, stderr, `ended after ${options.deadlineMs} ms`);
    if (stopped === 'output') throw new ProcessError(argv, 'output', null, stderr, `printed more than ${limitBytes} bytes`);
    if (exitCode !== 0) throw new ProcessError(argv, 'exit', exitCode, stderr, `exit ${exitCode ?? 'by a signal'}`);
    return Buffer.concat(stdout).toString();
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
  }
}

function awaitExit(child: ChildProcess): Promise<{ exitCode: number | null; absent: string | null }> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ exitCode: null, absent: error.message }));
    child.once('close', (exitCode) => resolve({ exitCode, absent: null }));
  });
}

/** Kills the child and all processes of its group. */
export function killProcessGroup(child: ChildProcess): void {
  if (child.pid !== undefined) killProcess(-child.pid);
}

/** Sends SIGKILL to a process, or to the group of a negative pid; succeeds where it has ended already. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}
