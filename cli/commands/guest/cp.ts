import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Stats } from 'node:fs';
import { chmod, lstat, mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, posix, resolve } from 'node:path';
import type { Command } from 'commander';
import { exitCodeOf } from '../../../model/streams/channels.ts';
import { CommandError, type Connection, type Session, UsageError } from '../../client.ts';
import { resolveVm } from '../../names.ts';
import { printNote, ReaderEndedError, writeBytes } from '../../output.ts';
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

/**
 * Beside its place first, and renamed: what is cut off leaves nothing of that name, and what was there before is removed when the
 * new one is in its place. $1: where to, $2: its name, $3: the folder of $1.
 */
const receive = `set -e
if [ -d "$1" ]; then folder=$1; target=$1/$2; else folder=$3; target=$1; fi
mkdir -p "$folder"
partial=$(mktemp -d "$folder/.berth-XXXXXX"); trap 'rm -rf "$partial"' EXIT
mkdir "$partial/new"
tar -x -f - -C "$partial/new"
if [ -e "$target" ] || [ -L "$target" ]; then mv "$target" "$partial/old"; fi
mv "$partial/new/$2" "$target"`;

const send = 'tar -c -f - -C "$1" "./$2"';

/** Its folder and its name there, of a path in a guest. Neither begins with a minus: a program would take that for an option. */
function partsOf(path: string): { path: string; folder: string; name: string } {
  const plain = path.startsWith('-') ? `./${path}` : path;
  return { path: plain, folder: posix.dirname(plain), name: posix.basename(plain) };
}

/** What has no name of its own would take that of another folder, and its place. */
function requireName(name: string, text: string): void {
  if (['', '.', '..', '/'].includes(name)) throw new UsageError(`${JSON.stringify(text)} has no name: name what is to be copied`);
}

/** Runs tar beside what moves its bytes. Where that fails, tar waits for bytes that never come, or are never taken, and is ended. */
async function withTar(
  words: string[],
  [stdin, stdout]: [stdin: 'pipe' | 'ignore', stdout: 'pipe' | 'ignore'],
  move: (tar: ChildProcess) => Promise<void>,
): Promise<void> {
  const tar = spawn('tar', words, { stdio: [stdin, stdout, 'inherit'] });
  const exited = once(tar, 'exit');
  const requireEnd = async (): Promise<void> => {
    const [code] = await exited;
    if (code !== 0) throw new CommandError(`tar ended with the exit code ${code}`);
  };
  try {
    await move(tar).catch(async (error: unknown) => {
      // Where tar has ended before its bytes were there, it is the reason.
      if (error instanceof ReaderEndedError) await requireEnd();
      throw error;
    });
    await requireEnd();
  } finally {
    tar.kill();
  }
}

async function upload(connection: Connection, from: string, vm: string, to: string): Promise<void> {
  const [local, there] = [resolve(from), partsOf(to)];
  const name = basename(local);
  requireName(name, from);
  const words = [there.path, name, there.folder];
  await withTar(['-c', '-f', '-', '-C', dirname(local), `./${name}`], ['ignore', 'pipe'], ({ stdout }) =>
    runIn(connection, vm, receive, words, { input: stdout, onOutput: async () => undefined }),
  );
}

async function download(
  connection: Connection,
  vm: string,
  from: string,
  to: string,
  warn: (text: string) => void,
): Promise<void> {
  const { folder, name } = partsOf(from);
  requireName(name, from);
  const target = (await isFolder(to)) ? join(to, name) : resolve(to);
  await mkdir(dirname(target), { recursive: true });
  const partial = await mkdtemp(join(dirname(target), '.berth-'));
  try {
    const received = join(partial, 'new');
    await mkdir(received);
    // A guest decides what it sends: nothing of it leads out of this folder, is another user's, or gives anybody another's rights.
    const words = ['-x', '-f', '-', '-C', received, '--no-same-owner', '--no-same-permissions'];
    await withTar(words, ['pipe', 'ignore'], async ({ stdin }) => {
      if (stdin === null) throw new Error('BUG: tar without an input');
      stdin.on('error', () => undefined);
      const onOutput = (_: 1 | 2, bytes: Uint8Array) => writeBytes(stdin, bytes);
      await runIn(connection, vm, send, [folder, name], { input: null, onOutput });
      stdin.end();
    });
    await keepPlain(received, warn);
    await putInPlace(join(received, name), target, join(partial, 'old'));
  } finally {
    await removeTree(partial);
  }
}

/** Leaves files, folders and links: a device or a pipe that a guest has sent would be one of this machine. */
async function keepPlain(folder: string, warn: (text: string) => void): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      const { mode } = await lstat(path);
      // One that its owner may not write to could be neither moved nor removed.
      if ((mode & 0o700) !== 0o700) await chmod(path, mode | 0o700);
      await keepPlain(path, warn);
    } else if (!entry.isFile() && !entry.isSymbolicLink()) {
      await rm(path);
      warn(`${JSON.stringify(entry.name)} is a device, a pipe or a socket, and was not copied`);
    }
  }
}

/** Replaces what is there. Where nothing came, it stays. */
async function putInPlace(received: string, target: string, old: string): Promise<void> {
  if ((await lstatOrNull(received)) === null) throw new CommandError('The VM sent nothing of that name');
  const isThere = (await lstatOrNull(target)) !== null;
  if (isThere) await rename(target, old);
  try {
    await rename(received, target);
  } catch (error) {
    if (isThere) await rename(old, target);
    throw error;
  }
}

const lstatOrNull = (path: string): Promise<Stats | null> => lstat(path).catch(() => null);

/** Also folders that nest so deep that no path names them. */
async function removeTree(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(async () => {
    await once(spawn('rm', ['-rf', folder], { stdio: 'ignore' }), 'exit');
  });
}

export function addCopyCommand(program: Command, { connect, output }: Session): void {
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
        return download(connection, await resolveVm(connection, from.vm), from.path, to.path, (text) =>
          printNote(output(), text),
        );
      throw new UsageError('One of both is in a VM, as VM:path, and the other one here');
    });
}
