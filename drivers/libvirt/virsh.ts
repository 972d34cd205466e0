import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { killProcessGroup } from '../host/run-process.ts';

/** virsh's answer to one command: an error is whatever it printed on standard error. */
export type VirshAnswer = { ok: true; output: string } | { ok: false; error: string };

/** virsh ended, or didn't answer in time: the outcome of the command is unknown. */
export class VirshUnresponsive extends Error {
  constructor(command: readonly string[], why: string) {
    super(`virsh ${command[0]}: ${why}`);
    this.name = 'VirshUnresponsive';
  }
}

export interface Virsh {
  /** Runs one command; waits for its answer to `deadlineMs`. Throws VirshUnresponsive. */
  call(command: readonly [string, ...string[]], deadlineMs: number): Promise<VirshAnswer>;
  /** Starts a process before it is needed, where the pool is empty. */
  prestart(): void;
  close(): void;
}

/**
 * A pool of virsh processes: the start of one costs a hundred times as much as a call (20 ms to 0.2 ms). Each runs one
 * command at a time, so that a command that blocks doesn't delay others; the next call replaces a process that has ended
 * or missed a deadline.
 */
export function openVirsh(uri: string, processes: number): Virsh {
  const idle: Session[] = [];
  const waiting: ((session: Session) => void)[] = [];
  let alive = 0;
  let closed = false;

  const assign = (session: Session): void => {
    const next = waiting.shift();
    if (next !== undefined) next(session);
    else idle.push(session);
  };
  const acquire = (): Promise<Session> | Session => {
    for (let session = idle.pop(); session !== undefined; session = idle.pop()) {
      if (session.isUsable()) return session;
      alive -= 1;
    }
    if (alive < processes) {
      alive += 1;
      return startSession(uri);
    }
    return new Promise((resolve) => waiting.push(resolve));
  };
  const release = (session: Session): void => {
    if (closed) session.end();
    else if (session.isUsable()) assign(session);
    else if (waiting.length > 0) assign(startSession(uri));
    else alive -= 1;
  };
  return {
    async call(command, deadlineMs) {
      const line = command.map(quoteForVirsh).join(' ');
      const session = await acquire();
      try {
        return await session.ask(line, command, deadlineMs);
      } finally {
        release(session);
      }
    },
    prestart() {
      if (alive > 0 || closed) return;
      alive += 1;
      assign(startSession(uri));
    },
    close() {
      closed = true;
      for (const session of idle.splice(0)) session.end();
    },
  };
}

/**
 * Quotes a word for virsh's own parser. It reads lines through readline, which takes control characters as commands and
 * bytes above ASCII depending on its settings: both are refused here; callers escape JSON.
 */
export function quoteForVirsh(word: string): string {
  if (/[^ -~]/.test(word)) throw new Error(`BUG: virsh can't read the word ${JSON.stringify(word.slice(0, 200))}`);
  return `'${word.replaceAll("'", "'\\''")}'`;
}

interface Session {
  ask(line: string, command: readonly string[], deadlineMs: number): Promise<VirshAnswer>;
  isUsable(): boolean;
  end(): void;
}

/** Far above the size of an agent's answer. */
const maxAnswerBytes = 32 * 2 ** 20;

function startSession(uri: string): Session {
  // stdbuf makes standard output to a pipe line-buffered; INPUTRC keeps readline's own settings out.
  const env = { PATH: process.env.PATH ?? '', LC_ALL: 'C.UTF-8', TERM: 'dumb', INPUTRC: '/dev/null' };
  const child: ChildProcessWithoutNullStreams = spawn('stdbuf', ['-oL', 'virsh', '-q', '-c', uri], { env, detached: true });
  let out = '';
  let err = '';
  let broken: string | null = null;
  let onChange = (): void => undefined;
  const on = (read: (text: string) => void) => (chunk: string) => {
    read(chunk);
    if (out.length + err.length > maxAnswerBytes) broken ??= `answered more than ${maxAnswerBytes} bytes`;
    onChange();
  };
  child.stdout.setEncoding('utf8').on(
    'data',
    on((text) => {
      out += text;
    }),
  );
  child.stderr.setEncoding('utf8').on(
    'data',
    on((text) => {
      err += text;
    }),
  );
  child.stdin.on('error', (error) => {
    broken ??= error.message;
    onChange();
  });
  child.once('error', (error) => {
    broken ??= error.message;
    onChange();
  });
  child.once('exit', (exitCode, signal) => {
    broken ??= `virsh ended (${exitCode ?? signal}): ${err.trim().slice(-500)}`;
    onChange();
  });

  return {
    isUsable: () => broken === null,
    end: () => {
      broken ??= 'closed';
      killProcessGroup(child);
    },
    ask(line, command, deadlineMs) {
      // A random mark: no output can contain it by accident or intent.
      const mark = `end-${randomBytes(12).toString('hex')}`;
      out = '';
      err = '';
      child.stdin.write(`${line}\necho ${mark}\necho --err ${mark}\n`);
      return new Promise((resolve, reject) => {
        // Called by the first of: the answer, the deadline, the end of virsh.
        const settle = (act: () => void): void => {
          clearTimeout(timer);
          onChange = () => undefined;
          act();
        };
        const fail = (why: string): void => {
          broken ??= why;
          killProcessGroup(child);
          settle(() => reject(new VirshUnresponsive(command, why)));
        };
        const timer = setTimeout(() => fail(`no answer in ${deadlineMs} ms`), deadlineMs);
        onChange = () => {
          if (broken !== null) fail(broken);
          else if (isComplete(out, err, mark)) {
            const answer = answerOf(out, err, mark);
            if (!answer.ok && disconnected.test(answer.error)) fail(answer.error);
            else settle(() => resolve(answer));
          }
        };
        onChange();
      });
    },
  };
}

/** virsh lost its connection to libvirtd: the rest of its answer is meaningless, and a new process connects sooner. */
const disconnected =
  /Disconnected from|Failed to reconnect|failed to connect|client socket is closed|Cannot (recv|write) data|End of file while/i;

/** virsh prints this on standard error, and executes the command, when libvirtd was restarted between two commands. */
const reconnected = /^error: Reconnected to the hypervisor$/gm;

const errorMark = (mark: string): string => `error: ${mark}\n`;
/** Where the prompt's echo of the closing command ends and its output begins. */
const outputMark = (mark: string): string => `echo ${mark}\n${mark}`;

/** The two outputs are two pipes: the echo of the last command may arrive after what that command prints on the other. */
function isComplete(out: string, err: string, mark: string): boolean {
  return err.endsWith(errorMark(mark)) && out.includes(outputMark(mark)) && out.includes(`echo --err ${mark}\n`);
}

/** Standard output is: the prompt with the echoed command, a line feed, the output, and the prompt with the closing command. */
function answerOf(out: string, err: string, mark: string): VirshAnswer {
  const error = err.slice(0, -errorMark(mark).length).replaceAll(reconnected, '').trim();
  if (error !== '') return { ok: false, error: error.replaceAll(/^error: /gm, '') };
  const end = out.lastIndexOf(outputMark(mark));
  const output = out.slice(out.indexOf('\n') + 1, end);
  return { ok: true, output: output.replace(/virsh # $/, '') };
}
