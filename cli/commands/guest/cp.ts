import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { exitCodeOf } from '../../../model/streams/channels.ts';
import { CommandError, type Connection, type Session, UsageError } from '../../client.ts';
import { resolveVm } from '../../names.ts';
import { writeBytes } from '../../output.ts';
import { Stream, type StreamOptions } from '../../streams/stream.ts';

/** A file or folder in a VM, or, without one, here. */
interface CopyEnd {
  vm: string | null;
  path: string;
}

function endOf(text: string): CopyEnd {
  const [, vm, path] = /^([^/:]+):(.+)$/s.exec(text) ?? [];
  return vm === undefined || path === undefined ? { vm: null, path: text } : { vm, path };
}

const isFolder = async (path: string): Promise<boolean> => (await stat(path).catch(() => null))?.isDirectory() === true;

/** Runs a script in the VM; throws what it said when it failed. */
async function runIn(
  connection: Connection,
  vm: string,
  script: string,
  words: string[],
  io: Pick<StreamOptions, 'input' | 'onOutput'>,
) {
  let said = '';
  const stream = new Stream(connection, {
    path: `/v1/vms/${vm}/exec`,
    query: [
      ...['sh', '-c', script, 'sh', ...words].map((word): [string, string] => ['command', word]),
      ['stdin', String(io.input !== null)],
    ],
    input: io.input,
    onOutput: async (channel, bytes) => {
      if (channel === 1) await io.onOutput(1, bytes);
      else said = `${said}${Buffer.from(bytes)}`.slice(-1000);
    },
  });
  const status = await stream.run();
  if (exitCodeOf(status) !== 0) throw new CommandError(said.trim() || status.message || 'the copy failed');
}

/** Beside its place first, and renamed: what is cut off leaves nothing of that name. */
const receive = `set -e
if [ -d "$1" ]; then target=$1/$2; else target=$1; fi
folder=$(dirname "$target"); mkdir -p "$folder"
partial=$(mktemp -d "$folder/.berth-XXXXXX"); trap 'rm -rf "$partial"' EXIT
tar -x -f - -C "$partial"
rm -rf "$target"; mv "$partial/$2" "$target"`;

/** Runs tar beside what moves its bytes. Where that fails, tar waits for bytes that never come, or are never taken, and is ended. */
async function withTar(
  words: string[],
  [stdin, stdout]: [stdin: 'pipe' | 'ignore', stdout: 'pipe' | 'ignore'],
  move: (tar: ChildProcess) => Promise<void>,
): Promise<void> {
  const tar = spawn('tar', words, { stdio: [stdin, stdout, 'inherit'] });
  const exited = once(tar, 'exit');
  try {
    await move(tar);
    const [code] = await exited;
    if (code !== 0) throw new CommandError(`tar ended with the exit code ${code}`);
  } finally {
    tar.kill();
  }
}

async function upload(connection: Connection, from: string, vm: string, to: string): Promise<void> {
  const path = resolve(from);
  await withTar(['-c', '-f', '-', '-C', dirname(path), basename(path)], ['ignore', 'pipe'], ({ stdout }) =>
    runIn(connection, vm, receive, [to, basename(path)], { input: stdout, onOutput: async () => undefined }),
  );
}

async function download(connection: Connection, vm: string, from: string, to: string): Promise<void> {
  const target = (await isFolder(to)) ? join(to, basename(from)) : resolve(to);
  await mkdir(dirname(target), { recursive: true });
  const partial = await mkdtemp(join(dirname(target), '.berth-'));
  try {
    // A guest decides what it sends: nothing of it leads out of this folder, and nothing of it is another user's.
    const words = ['-x', '-f', '-', '-C', partial, '--no-same-owner'];
    await withTar(words, ['pipe', 'ignore'], async ({ stdin }) => {
      if (stdin === null) throw new Error('BUG: tar without an input');
      stdin.on('error', () => undefined);
      const onOutput = (_: 1 | 2, bytes: Uint8Array) => writeBytes(stdin, bytes);
      await runIn(connection, vm, 'tar -c -f - -C "$(dirname "$1")" "$(basename "$1")"', [from], { input: null, onOutput });
      stdin.end();
    });
    await rm(target, { recursive: true, force: true });
    await rename(join(partial, basename(from)), target);
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}

export function addCopyCommand(program: Command, { connect }: Session): void {
  program
    .command('cp')
    .description('copy a file or a folder into a VM, or out of it')
    .argument('<from>', 'a path, or VM:path')
    .argument('<to>', 'likewise; a folder that is there gets it under its name')
    .addHelpText('after', '\nBoth need tar.\n\nExamples:\n  berth cp site web:/srv\n  berth cp web:/var/log/nginx/error.log .')
    .action(async (fromText: string, toText: string) => {
      const [from, to] = [endOf(fromText), endOf(toText)];
      const connection = connect();
      if (from.vm === null && to.vm !== null) return upload(connection, from.path, await resolveVm(connection, to.vm), to.path);
      if (from.vm !== null && to.vm === null)
        return download(connection, await resolveVm(connection, from.vm), from.path, to.path);
      throw new UsageError('One of both is in a VM, as VM:path, and the other one here');
    });
}
