import { createHash, type Hash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import {
  CommandError,
  type Connection,
  call,
  callEmpty,
  callJson,
  list,
  type Session,
  UsageError,
  withRetry,
} from '../client.ts';
import { resolveFile } from '../names.ts';
import { wholeNumber } from '../options.ts';
import { type Output, print, printRows, sizeOf, withProgress, writeBytes } from '../output.ts';

/** What is needed of a stored file to fetch its bytes and to check them. */
export interface StoredFile {
  id: string;
  name: string;
  sizeBytes: number;
  sha256: string;
}

interface File extends StoredFile {
  createdAt: string;
}

const filePath = (id: string, rest = ''): string => `/v1/files/${encodeURIComponent(id)}${rest}`;

async function* hashing(hash: Hash, source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

/** A file that another process writes to would not fit the length that was announced. */
async function* ofLength(total: number, path: string, source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const changed = () => new CommandError(`${path} changed its size while it was sent`);
  let length = 0;
  for await (const chunk of source) {
    length += chunk.length;
    if (length > total) throw changed();
    yield chunk;
  }
  if (length < total) throw changed();
}

function refuseDamaged(what: string, found: string, expected: string): void {
  if (found !== expected) throw new CommandError(`${what} arrived damaged: SHA-256 ${found}, expected ${expected}`);
}

async function send(
  connection: Connection,
  output: Output,
  name: string,
  { source, total }: { source: AsyncIterable<Uint8Array>; total: number | null },
  key: string,
): Promise<File> {
  const hash = createHash('sha256');
  const body = withProgress(output, name, total, hashing(hash, source));
  const length = total === null ? {} : { 'content-length': String(total) };
  const headers = { 'content-type': 'application/octet-stream', 'idempotency-key': key, ...length };
  const file = await callJson<File>(connection, `/v1/files?${new URLSearchParams({ name })}`, { method: 'POST', body, headers });
  refuseDamaged(name, file.sha256, hash.digest('hex'));
  return file;
}

/**
 * Stores a file. When no answer comes it is sent again under the same Idempotency-Key; the standard input, `-`, can be
 * read only once and is not.
 */
export async function upload(connection: Connection, output: Output, path: string, givenName?: string): Promise<File> {
  const key = randomUUID();
  if (path === '-') {
    if (givenName === undefined) throw new UsageError('Bytes from the standard input need a --name');
    return send(connection, output, givenName, { source: process.stdin, total: null }, key);
  }
  const found = await stat(path);
  if (!found.isFile()) throw new UsageError(`${path} is not a regular file`);
  const { size } = found;
  // Files in /proc have a size of 0 and content all the same.
  const bytes = () =>
    size === 0
      ? { source: createReadStream(path), total: null }
      : { source: ofLength(size, path, createReadStream(path)), total: size };
  return withRetry(() => send(connection, output, givenName ?? basename(path), bytes(), key));
}

/** The id of a file that a command names: `@local-file` is uploaded, everything else is the id or name of a stored one. */
export async function fileIdOf(connection: Connection, output: Output, source: string): Promise<string> {
  return source.startsWith('@') ? (await upload(connection, output, source.slice(1))).id : resolveFile(connection, source);
}

/** Fetches to `<path>.part`, and renames when the bytes are those that the repository has. `-` is the standard output. */
export async function download(connection: Connection, output: Output, file: StoredFile, path: string): Promise<void> {
  const { body } = await call(connection, filePath(file.id, '/content'));
  const hash = createHash('sha256');
  const bytes = hashing(hash, withProgress(output, file.name, file.sizeBytes, body));
  if (path === '-') {
    for await (const chunk of bytes) await writeBytes(output.out, chunk);
    refuseDamaged(file.name, hash.digest('hex'), file.sha256);
    return;
  }
  try {
    await pipeline(bytes, createWriteStream(`${path}.part`));
    refuseDamaged(file.name, hash.digest('hex'), file.sha256);
    await rename(`${path}.part`, path);
  } finally {
    await rm(`${path}.part`, { force: true });
  }
}

export function addFileCommands(program: Command, { connect, output }: Session): void {
  const files = program.command('files').description('store, fetch, list and delete files');

  files
    .command('put')
    .description('store files and print their ids')
    .argument('<path...>', 'files to store; - for the standard input')
    .option('--name <name>', 'what it is to be called, for one file (default: its own name)')
    .addHelpText('after', '\nExamples:\n  berth files put words.txt\n  tar c data | berth files put - --name data.tar')
    .action(async (paths: string[], { name }: { name?: string }) => {
      if (name !== undefined && paths.length > 1) throw new UsageError('--name is for one file');
      for (const path of paths) {
        const file = await upload(connect(), output(), path, name);
        print(output(), output().json ? JSON.stringify(file) : file.id);
      }
    });

  files
    .command('get')
    .description('fetch a file')
    .argument('<file>', 'its id or name')
    .option('-o, --output <path>', 'where to; - for the standard output (default: its name, here)')
    .addHelpText('after', '\nExamples:\n  berth files get words.txt\n  berth files get words.txt -o - | less')
    .action(async (which: string, { output: to }: { output?: string }) => {
      const id = await resolveFile(connect(), which);
      const file = await callJson<File>(connect(), filePath(id));
      // Not the name's folders: a name like ../../x must not choose where bytes go.
      const path = to ?? basename(file.name);
      await download(connect(), output(), file, path);
      if (path !== '-') print(output(), output().json ? JSON.stringify({ path }) : path);
    });

  files
    .command('ls')
    .description('list files, newest first')
    .option('--limit <n>', 'how many', wholeNumber, 50)
    .addHelpText('after', '\nExample:\n  berth files ls --limit 10')
    .action(async ({ limit }: { limit: number }) => {
      printRows(output(), await list<File>(connect(), '/v1/files', {}, limit), {
        id: (file) => file.id,
        size: (file) => sizeOf(file.sizeBytes),
        created: (file) => file.createdAt,
        name: (file) => file.name,
      });
    });

  files
    .command('rm')
    .description('delete files')
    .argument('<file...>', 'their ids or names')
    .addHelpText('after', '\nExample:\n  berth files rm words.txt')
    .action(async (names: string[]) => {
      for (const name of names) await callEmpty(connect(), filePath(await resolveFile(connect(), name)), { method: 'DELETE' });
    });
}
