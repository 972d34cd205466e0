import { once } from 'node:events';
import { constants } from 'node:os';
import type { Command } from 'commander';
import { exitCodeOf, type StreamStatus } from '../../../model/streams/channels.ts';
import { CommandError, type Session, UsageError } from '../../client.ts';
import { resolveTask, resolveVm } from '../../names.ts';
import { collect, wholeNumber } from '../../options.ts';
import { printNote, writeBytes } from '../../output.ts';
import { Stream } from '../../streams/stream.ts';
import { withRawTerminal, withTerminalSize } from '../../streams/terminal.ts';

interface ExecOptions {
  stdin?: boolean;
  tty?: boolean;
  task?: boolean;
  node: number;
  env: string[];
  timeout: number;
}

const defaultSize = { rows: 24, columns: 80 };
/** Ends the program's way of telling: what no command can answer. */
const lostExitCode = 255;

function queryOf(words: string[], { stdin, tty, env, timeout }: ExecOptions): [string, string][] {
  const { rows, columns } = process.stdout.isTTY ? process.stdout : defaultSize;
  return [
    ...words.map((word): [string, string] => ['command', word]),
    ...env.map((entry): [string, string] => ['env', entry]),
    ['stdin', String(stdin === true)],
    ['tty', String(tty === true)],
    ...(tty ? [['env', `TERM=${process.env.TERM ?? 'xterm-256color'}`] as [string, string]] : []),
    ['rows', String(rows)],
    ['cols', String(columns)],
    ['timeoutS', String(timeout)],
  ];
}

/** The exit code of a session; what no exit code tells is printed. */
export function exitOf(status: StreamStatus): number {
  const code = exitCodeOf(status);
  if (code === null) throw new CommandError(`${status.reason ?? 'Failure'}: ${status.message ?? 'the session was lost'}`);
  if (status.reason === 'Timeout') process.stderr.write('berth: the command was ended after its time-out\n');
  return code;
}

const withTerminal = <T>(stream: Stream, act: () => Promise<T>): Promise<T> =>
  withRawTerminal(() => withTerminalSize((rows, cols) => stream.resize(rows, cols), act));

/** Passes signals on, so that the command ends as it would here. */
async function withSignals<T>(stream: Stream, act: () => Promise<T>): Promise<T> {
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
  const handlers = names.map((name) => [name, () => stream.signal(constants.signals[name])] as const);
  for (const [name, handler] of handlers) process.on(name, handler);
  try {
    return await act();
  } finally {
    for (const [name, handler] of handlers) process.off(name, handler);
  }
}

export function addExecCommands(program: Command, { connect, output }: Session): void {
  program
    .command('exec')
    .description('run a command in a VM, or beside the command of a task')
    .argument('<vm>', 'id or name of the VM, or, with --task, of the task')
    .argument('[command...]', 'the program and its arguments, after --')
    .option('-i, --stdin', 'give it the standard input')
    .option('-t, --tty', 'give it a terminal')
    .option('--task', 'in a VM of a task')
    .option('--node <n>', 'which of its VMs', wholeNumber, 0)
    .option('--env <name=value>', 'an environment variable; may be repeated', collect, [])
    .option('--timeout <seconds>', 'after which it is ended', wholeNumber, 0)
    .addHelpText(
      'after',
      `
The exit code is the command's own, 124 after --timeout, 127 where there is no such program, and 255 where the session was lost.
A live migration of the VM, or a restart of the API or of a worker, does not end it.

Examples:
  berth exec web -- systemctl is-active nginx
  berth exec -it web
  tar c site | berth exec -i web -- tar x -C /var/www`,
    )
    .action(async (which: string, words: string[], options: ExecOptions) => {
      if (words.length === 0 && !options.tty) throw new UsageError('Which command? Give it after --, or -it for a shell');
      const command = words.length === 0 ? ['/bin/bash', '-l'] : words;
      const connection = connect();
      const id = options.task ? await resolveTask(connection, which) : await resolveVm(connection, which);
      const path = options.task ? `/v1/tasks/${id}/exec` : `/v1/vms/${id}/exec`;
      const query = queryOf(command, options);
      if (options.task) query.push(['node', String(options.node)]);
      const { out, err } = output();
      const stream = new Stream(connection, {
        path,
        query,
        input: options.stdin ? process.stdin : null,
        onOutput: (channel, bytes) => writeBytes(channel === 1 ? out : err, bytes),
      });
      const run = () => stream.run();
      try {
        const status = await (options.tty && options.stdin ? withTerminal(stream, run) : withSignals(stream, run));
        process.exitCode = exitOf(status);
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        printNote(output(), error.message);
        process.exitCode = lostExitCode;
      } finally {
        // What waits for more input would keep the process.
        process.stdin.destroy();
        if (out.writableLength > 0) await once(out, 'drain');
      }
    });
}
