import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { escapeName } from '../../../model/outputs/names.ts';
import {
  CommandError,
  type Connection,
  call,
  callEmpty,
  callJson,
  list,
  postOnce,
  type Session,
  UsageError,
  withRetry,
} from '../../client.ts';
import { collect, given, splitPair, unlessEmpty, wholeNumber } from '../../options.ts';
import { type Output, print, printNote, printOne, printRows, sizeOf, withProgress, writeBytes } from '../../output.ts';
import { time } from '../../times.ts';
import { download } from '../files.ts';
import { type Entry, entryRoute, fetchFolder, localFiles, storedFile } from './local-tree.ts';

interface PutOptions {
  meta: string[];
  expires?: string;
  new?: boolean;
}

/** Stores one file of this machine, or the standard input (null), at a path. */
async function put(connection: Connection, output: Output, local: Buffer | null, path: string, options: PutOptions) {
  const metadata = Object.fromEntries(options.meta.map((pair) => splitPair(pair, '--meta')));
  const query = new URLSearchParams({
    metadata: JSON.stringify(metadata),
    ...(options.expires !== undefined && { expiresAt: options.expires }),
  });
  const total = local === null ? null : (await stat(local)).size;
  const headers = {
    'content-type': 'application/octet-stream',
    ...(total !== null && { 'content-length': String(total) }),
    ...(options.new && { 'if-none-match': '*' }),
  };
  const send = () => {
    const body = withProgress(output, path, total, local === null ? process.stdin : createReadStream(local));
    return callJson<Entry>(connection, `${entryRoute(path)}?${query}`, { method: 'PUT', body, headers });
  };
  // What may be done once alone is not repeated: whether it was is not known.
  return local === null || options.new ? send() : withRetry(send);
}

/** A path that ends with / is a folder, in which the file gets its own name. */
function targetOf(local: string, to: string): string {
  if (to !== '' && !to.endsWith('/')) return to;
  if (local === '-') throw new UsageError('Bytes from the standard input need a whole path');
  return `${to}${escapeName(Buffer.from(basename(local)))}`;
}

async function putFolder(connection: Connection, output: Output, local: string, to: string, options: PutOptions) {
  const folder = to.replace(/\/$/, '');
  let count = 0;
  for await (const { path, text } of localFiles(Buffer.from(local), (skipped) =>
    printNote(output, `${skipped} is neither a file nor a folder, and was left out`),
  )) {
    await put(connection, output, path, folder === '' ? text : `${folder}/${text}`, options);
    count += 1;
  }
  print(output, output.json ? JSON.stringify({ path: folder, files: count }) : `${count} files`);
}

async function getArchive(connection: Connection, output: Output, path: string, to: string): Promise<void> {
  const { body } = await call(connection, `${entryRoute(path)}?archive=tar`);
  const bytes = withProgress(output, path, null, body);
  if (to === '-') for await (const chunk of bytes) await writeBytes(output.out, chunk);
  else await pipeline(bytes, createWriteStream(to));
}

const describe = (connection: Connection, path: string) => callJson<Entry>(connection, `${entryRoute(path)}?describe=1`);

async function get(connection: Connection, output: Output, path: string, options: { output?: string; recursive?: boolean }) {
  const entry = await describe(connection, path);
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (entry.kind === 'file') {
    const to = options.output ?? name;
    await download(connection, output, storedFile(entry), to);
    return to;
  }
  if (!options.recursive) {
    const to = options.output ?? `${name}.tar`;
    await getArchive(connection, output, path, to);
    return to;
  }
  if (options.output === '-') throw new CommandError('A folder goes to the standard output as a tar: leave --recursive out');
  await fetchFolder(connection, output, path, options.output ?? name);
  return options.output ?? name;
}

function addReading(tree: Command, { connect, output }: Session): void {
  tree
    .command('get')
    .description('fetch a file, or a folder as a tar')
    .argument('<path>', 'in the tree')
    .option('-o, --output <path>', 'where to; - for the standard output')
    .option('-r, --recursive', 'a folder as files, with their names’ own bytes')
    .addHelpText(
      'after',
      '\nExamples:\n  berth tree get reports/2026.csv\n  berth tree get tasks/task_01jd7x3v8ve5hb1f5wwfb2x5r1 -o - | tar t',
    )
    .action(async (path: string, options: { output?: string; recursive?: boolean }) => {
      const to = await get(connect(), output(), path, options);
      if (to !== '-') print(output(), output().json ? JSON.stringify({ path: to }) : to);
    });

  tree
    .command('ls')
    .description('list a folder, by name')
    .argument('[folder]', 'default: the root')
    .option('--prefix <text>', 'instead: every entry whose path begins with this')
    .option('--limit <n>', 'how many', wholeNumber, 1000)
    .addHelpText('after', '\nExamples:\n  berth tree ls reports\n  berth tree ls --prefix reports/2026')
    .action(async (folder: string | undefined, { prefix, limit }: { prefix?: string; limit: number }) => {
      if (folder !== undefined && prefix !== undefined) throw new UsageError('A folder or --prefix, not both');
      const query = { ...(folder && { folder: folder.replace(/\/$/, '') }), ...(prefix !== undefined && { prefix }) };
      printRows(output(), await list<Entry>(connect(), '/v1/tree', query, limit), {
        size: (entry) => (entry.sizeBytes === null ? '-' : sizeOf(entry.sizeBytes)),
        modified: (entry) => entry.modifiedAt,
        path: (entry) => (entry.kind === 'folder' ? `${entry.path}/` : entry.path),
      });
    });

  tree
    .command('show')
    .description('describe an entry')
    .argument('<path>', 'in the tree')
    .addHelpText('after', '\nExample:\n  berth tree show reports/2026.csv')
    .action(async (path: string) => printOne(output(), await describe(connect(), path)));
}

function addWriting(tree: Command, { connect, output }: Session): void {
  tree
    .command('put')
    .description('store a file at a path, or a folder with all in it')
    .argument('<local>', 'a file or folder of this machine; - for the standard input')
    .argument('<path>', 'in the tree; with a / at the end a folder, and the file keeps its name')
    .option('--meta <key=value>', 'metadata; may be repeated', collect, [])
    .option('--expires <time>', 'when it is to be deleted: RFC 3339, or 7d', time)
    .option('--new', 'replace nothing')
    .addHelpText(
      'after',
      '\nExamples:\n  berth tree put results.csv reports/2026/\n  berth tree put data reports/data --expires 30d',
    )
    .action(async (local: string, path: string, options: PutOptions) => {
      const connection = connect();
      if (local !== '-' && (await stat(local)).isDirectory()) return putFolder(connection, output(), local, path, options);
      const from = local === '-' ? null : Buffer.from(local);
      const entry = await put(connection, output(), from, targetOf(local, path), options);
      print(output(), output().json ? JSON.stringify(entry) : entry.path);
    });

  tree
    .command('set')
    .description("change an entry's metadata, or when it is to be deleted")
    .argument('<path>', 'in the tree')
    .option('--meta <key=value>', 'an empty value removes the key; may be repeated', collect, [])
    .option('--expires <time>', 'RFC 3339, 7d, or never')
    .addHelpText('after', '\nExample:\n  berth tree set reports/2026.csv --meta run=17 --expires never')
    .action(async (path: string, { meta, expires }: { meta: string[]; expires?: string }) => {
      const pairs = meta.map((pair) => splitPair(pair, '--meta')).map(([key, value]) => [key, value === '' ? null : value]);
      const expiresAt = expires === 'never' ? null : expires && time(expires);
      const json = given({ metadata: unlessEmpty(Object.fromEntries(pairs)), expiresAt });
      printOne(output(), await callJson<Entry>(connect(), entryRoute(path), { method: 'PATCH', json }));
    });

  tree
    .command('rm')
    .description('delete entries: into the trash, or for good')
    .argument('<path...>', 'in the tree')
    .option('-r, --recursive', 'folders with all in them')
    .option('--purge', 'for good')
    .addHelpText('after', '\nExample:\n  berth tree rm -r reports')
    .action(async (paths: string[], { recursive, purge }: { recursive?: boolean; purge?: boolean }) => {
      const query = new URLSearchParams({ recursive: recursive ? '1' : '0', purge: purge ? '1' : '0' });
      for (const path of paths) await callEmpty(connect(), `${entryRoute(path)}?${query}`, { method: 'DELETE' });
    });
}

function addActions(tree: Command, { connect, output }: Session): void {
  const act = async (json: object) => printOne(output(), await postOnce<Entry>(connect(), '/v1/tree', json));

  tree
    .command('mkdir')
    .description('make a folder, and those that it lies in')
    .argument('<path>', 'in the tree')
    .addHelpText('after', '\nExample:\n  berth tree mkdir reports/2026')
    .action((path: string) => act({ action: 'folder', path }));

  for (const [name, action, does] of [
    ['cp', 'copy', 'copy a file, or a folder with all in it; the bytes are not copied'],
    ['mv', 'move', 'move a file, or a folder with all in it'],
  ] as const)
    tree
      .command(name)
      .description(does)
      .argument('<from>', 'in the tree')
      .argument('<to>', 'the whole path that it is to have')
      .option('--replace', 'a file that is there goes into the trash')
      .addHelpText('after', `\nExample:\n  berth tree ${name} reports/2026 archive/2026`)
      .action((from: string, to: string, { replace = false }: { replace?: boolean }) => act({ action, from, to, replace }));

  tree
    .command('link')
    .description('give a stored file a path')
    .argument('<file>', 'its id')
    .argument('<path>', 'in the tree')
    .option('--replace', 'a file that is there goes into the trash')
    .addHelpText('after', '\nExample:\n  berth tree link file_01jd7x3v8ve5hb1f5wwfb2x5r1 inputs/words')
    .action((file: string, to: string, { replace = false }: { replace?: boolean }) => act({ action: 'link', file, to, replace }));
}

export function addTreeCommands(program: Command, session: Session): void {
  const tree = program.command('tree').description('files and folders by their paths');
  addReading(tree, session);
  addWriting(tree, session);
  addActions(tree, session);
}
