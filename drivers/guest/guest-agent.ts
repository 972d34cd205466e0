import { setTimeout as delay } from 'node:timers/promises';
import { BerthError } from '../../model/errors.ts';
import { type Virsh, VirshUnresponsive } from '../libvirt/virsh.ts';

/**
 * qemu-guest-agent's own commands (https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html), a round trip each:
 * 2 ms on an idle machine. `host-busy` when there is no answer, which says nothing about the domain.
 */
export interface GuestAgent {
  ping(domain: string): Promise<boolean>;
  /** Runs a program to its end. `env` replaces the agent's own. Throws AgentError when it can't be started. */
  exec(domain: string, argv: string[], options: ExecOptions): Promise<ExecResult>;
  /** Starts a program and returns its pid, which only this process of the agent knows. Throws as exec does. */
  start(domain: string, argv: string[], options: Omit<ExecOptions, 'deadlineMs'>): Promise<number>;
  /** How a started program ended, reported once; null as long as it runs. Throws AgentError for an unknown pid. */
  execStatus(domain: string, pid: number): Promise<ExecResult | null>;
  /** Up to `limit` bytes of a file from an offset; null when there is no such file. */
  readFile(domain: string, path: string, from: number, limit: number): Promise<Buffer | null>;
  /** Freezes mounted file systems; returns how many were. */
  freeze(domain: string, mountpoints: string[]): Promise<number>;
  isFrozen(domain: string): Promise<boolean>;
}

interface ExecResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

interface ExecOptions {
  deadlineMs: number;
  input?: Buffer;
  env?: string[];
  capture?: boolean;
}

/** The agent answered with an error. */
export class AgentError extends Error {
  constructor(command: string, message: string) {
    super(`guest agent, ${command}: ${message}`);
    this.name = 'AgentError';
  }
}

/** An overcommitted guest under emulation may need seconds for the simplest answer. */
const answerDeadlineS = 20;
/** Short: pings are repeated. */
const pingDeadlineS = 5;
const minPollMs = 3;
const maxPollMs = 100;
/** What qemu-ga reads at most in one call is 48 MiB; this keeps an answer small. */
const readBytes = 1024 * 1024;

type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

export function openGuestAgent(virsh: Pick<Virsh, 'call'>): GuestAgent {
  async function ask(domain: string, command: string, args?: { [key: string]: Json }, waitS = answerDeadlineS): Promise<Json> {
    const request = asciiJson({ execute: command, ...(args === undefined ? {} : { arguments: args }) });
    let answer: Awaited<ReturnType<Virsh['call']>>;
    try {
      answer = await virsh.call(['qemu-agent-command', domain, request, '--timeout', String(waitS)], (waitS + 5) * 1000);
    } catch (error) {
      if (!(error instanceof VirshUnresponsive)) throw error;
      throw new BerthError('host-busy', `asking the agent of ${domain}: ${error.message}`, { cause: error });
    }
    if (!answer.ok) throw agentError(domain, command, answer.error);
    return field(parseAnswer(command, answer.output), 'return');
  }

  async function start(
    domain: string,
    [path = '', ...arg]: string[],
    { input, env, capture = true }: Omit<ExecOptions, 'deadlineMs'>,
  ): Promise<number> {
    const started = await ask(domain, 'guest-exec', {
      path,
      arg,
      'capture-output': capture,
      ...(env === undefined ? {} : { env }),
      ...(input === undefined ? {} : { 'input-data': input.toString('base64') }),
    });
    return number(field(started, 'pid'));
  }

  async function execStatus(domain: string, pid: number): Promise<ExecResult | null> {
    const status = await ask(domain, 'guest-exec-status', { pid });
    return field(status, 'exited') === true ? execResult(status) : null;
  }

  return {
    async ping(domain) {
      try {
        await ask(domain, 'guest-ping', undefined, pingDeadlineS);
        return true;
      } catch (error) {
        if (error instanceof BerthError && error.code === 'host-busy') return false;
        throw error;
      }
    },
    start,
    execStatus,
    async exec(domain, argv, { deadlineMs, ...options }) {
      const pid = await start(domain, argv, options);
      const untilMs = performance.now() + deadlineMs;
      for (let pauseMs = minPollMs; ; pauseMs = Math.min(maxPollMs, pauseMs * 1.5)) {
        const ended = await execStatus(domain, pid);
        if (ended !== null) return ended;
        if (performance.now() > untilMs)
          throw new BerthError('host-busy', `${argv[0]} in ${domain} didn't end in ${deadlineMs} ms`);
        await delay(pauseMs);
      }
    },
    async readFile(domain, path, from, limit) {
      const handle = await openFile(domain, path);
      if (handle === null) return null;
      try {
        if (from > 0) await ask(domain, 'guest-file-seek', { handle, offset: from, whence: 0 });
        const count = Math.min(limit, readBytes);
        const read = await ask(domain, 'guest-file-read', { handle, count });
        return decodeBase64(read, 'buf-b64', count);
      } finally {
        await ask(domain, 'guest-file-close', { handle });
      }
    },
    async freeze(domain, mountpoints) {
      return number(await ask(domain, 'guest-fsfreeze-freeze-list', { mountpoints }));
    },
    async isFrozen(domain) {
      return (await ask(domain, 'guest-fsfreeze-status')) === 'frozen';
    },
  };

  async function openFile(domain: string, path: string): Promise<number | null> {
    try {
      return number(await ask(domain, 'guest-file-open', { path, mode: 'r' }));
    } catch (error) {
      if (error instanceof AgentError && /No such file or directory/.test(error.message)) return null;
      throw error;
    }
  }
}

/** JSON in printable ASCII, as virsh's parser needs it. Lone surrogates are replaced: libvirt would refuse them. */
export function asciiJson(value: Json): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === 'string' ? item.toWellFormed() : item)).replaceAll(
    /[^ -~]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function agentError(domain: string, command: string, error: string): Error {
  const agent = /unable to execute QEMU agent command '[^']*': (.*)/s.exec(error)?.[1];
  if (agent !== undefined) return new AgentError(command, agent.slice(0, errorChars));
  // Not connected yet, not responding, or no domain: only the hypervisor can tell which.
  return new BerthError('host-busy', `asking the agent of ${domain} for ${command}: ${error.slice(0, errorChars)}`);
}

/** libvirt passes on what the agent wrote. */
function parseAnswer(command: string, text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new BerthError('hypervisor', `the guest agent answered ${command} without JSON: ${JSON.stringify(text.slice(0, 200))}`);
  }
}

/** What a guest says of an error becomes part of its task's: of a long one the begin. */
const errorChars = 500;

function field(value: Json, name: string): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && value[name] !== undefined) return value[name];
  throw new BerthError('hypervisor', `the guest agent answered without ${name}: ${JSON.stringify(value).slice(0, 200)}`);
}

function number(value: Json): number {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
  throw new BerthError('hypervisor', `the guest agent answered ${JSON.stringify(value).slice(0, 200)} for a number`);
}

/** A guest controls its agent's answers: only a string is decoded, and no more of it than was asked for. */
function decodeBase64(value: Json, name: string, limitBytes: number): Buffer {
  const text = typeof value === 'object' && value !== null && !Array.isArray(value) ? value[name] : undefined;
  if (typeof text !== 'string') return Buffer.alloc(0);
  return Buffer.from(text.slice(0, Math.ceil(limitBytes / 3) * 4), 'base64').subarray(0, limitBytes);
}

/** What a program that Berth starts in a guest prints: a line, or an error whose end is told. */
const outputBytes = 64 * 1024;

function execResult(status: Json): ExecResult {
  const fields = typeof status === 'object' && status !== null && !Array.isArray(status) ? status : {};
  return {
    exitCode: exitCodeOf(fields),
    stdout: decodeBase64(status, 'out-data', outputBytes).toString(),
    stderr: decodeBase64(status, 'err-data', outputBytes).toString(),
  };
}

/** A program that a signal ended has no exit code: 128 plus the signal, as in a shell. What is neither counts as a failure. */
function exitCodeOf({ exitcode, signal }: { [key: string]: Json }): number {
  const code = typeof exitcode === 'number' ? exitcode : 128 + (typeof signal === 'number' ? signal : 0);
  return Number.isInteger(code) && code >= 0 && code <= 255 ? code : 255;
}
