import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { type Connection, call, callJson, list, patiently, UsageError } from './client.ts';
import { whole } from './options.ts';
import { print, printRows, type Screen, sizeOf, withProgress } from './show.ts';

interface File {
  id: string;
  name: string;
  sizeBytes: number;
  sha256: string;
  createdAt: string;
}

async function* hashing(hash: ReturnType<typeof createHash>, source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

function refuseDamaged(what: string, found: string, expected: string): void {
  if (found !== expected) throw new Error(`${what} arrived damaged: SHA-256 ${found}, expected ${expected}`);
}

async function send(
  connected: Connection,
  screen: Screen,
  name: string,
  bytes: { source: AsyncIterable<Uint8Array>; total: number | null },
  key: string,
): Promise<File> {
  const hash = createHash('sha256');
  const body = withProgress(screen, name, bytes.total, hashing(hash, bytes.source));
  const headers = { 'idempotency-key': key, ...(bytes.total !== null && { 'content-length': String(bytes.total) }) };
  const file = await callJson<File>(connected, `/v1/files?${new URLSearchParams({ name })}`, { method: 'POST', body, headers });
  refuseDamaged(name, file.sha256, hash.digest('hex'));
  return file;
}

/** Uploads a file; a lost answer is asked for again, under the same key. `-` is the standard input, and has one try. */
export async function upload(connected: Connection, screen: Screen, path: string, named?: string): Promise<File> {
  const key = randomUUID();
  if (path === '-') {
    if (named === undefined) throw new UsageError('Bytes from the standard input need a --name');
    return send(connected, screen, named, { source: process.stdin, total: null }, key);
  }
  const found = await stat(path);
  if (!found.isFile()) throw new UsageError(`${path} is not a regular file`);
  const name = named ?? basename(path);
  return patiently(() => send(connected, screen, name, { source: createReadStream(path), total: found.size }, key));
}

/** Downloads to `<path>.part`, and renames when the bytes are those that the repository has. `-` is standard output. */
export async function download(connected: Connection, screen: Screen, id: string, to: string | undefined): Promise<string> {
  const file = await callJson<File>(connected, `/v1/files/${encodeURIComponent(id)}`);
  const answer = await call(connected, `/v1/files/${encodeURIComponent(id)}/content`);
  const hash = createHash('sha256');
  const bytes = hashing(hash, withProgress(screen, file.name, file.sizeBytes, answer.body));
  if (to === '-') {
    for await (const chunk of bytes) if (!screen.out.write(chunk)) await new Promise((ready) => screen.out.once('drain', ready));
    refuseDamaged(file.name, hash.digest('hex'), file.sha256);
    return to;
  }
  // Not the name's folders: a name like ../../x must not choose where bytes go.
  const path = to ?? basename(file.name);
  try {
    await pipeline(bytes, createWriteStream(`${path}.part`));
    refuseDamaged(file.name, hash.digest('hex'), file.sha256);
    await rename(`${path}.part`, path);
  } finally {
    await rm(`${path}.part`, { force: true });
  }
  return path;
}

export function addFileCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
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
        const file = await upload(connect(), screen(), path, name);
        print(screen(), screen().json ? JSON.stringify(file) : file.id);
      }
    });

  files
    .command('get')
    .description('fetch a file')
    .argument('<id>')
    .option('-o, --output <path>', 'where to; - for the standard output (default: its name, here)')
    .addHelpText('after', '\nExamples:\n  berth files get file_01jd7x… -o count\n  berth files get file_01jd7x… -o - | less')
    .action(async (id: string, { output }: { output?: string }) => {
      const path = await download(connect(), screen(), id, output);
      if (path !== '-') print(screen(), screen().json ? JSON.stringify({ path }) : path);
    });

  files
    .command('ls')
    .description('list files, newest first')
    .option('--limit <n>', 'how many', whole, 50)
    .action(async ({ limit }: { limit: number }) => {
      printRows(screen(), await list<File>(connect(), '/v1/files', {}, limit), {
        id: (file) => file.id,
        size: (file) => sizeOf(file.sizeBytes),
        created: (file) => file.createdAt,
        name: (file) => file.name,
      });
    });

  files
    .command('rm')
    .description('delete files')
    .argument('<id...>')
    .action(async (ids: string[]) => {
      for (const id of ids)
        await (await call(connect(), `/v1/files/${encodeURIComponent(id)}`, { method: 'DELETE' })).body.dump();
    });
}
