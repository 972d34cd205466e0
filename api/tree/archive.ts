import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { Response } from 'express';
import { type Pack, pack } from 'tar-stream';
import type { EntryRecord } from '../../ledger/tree/entry-record.ts';
import { unescapeName } from '../../model/outputs/names.ts';
import type { ByteStore } from '../files/byte-store.ts';

/** A name with its bytes where these are UTF-8; else as text, because tar-stream takes strings. */
function archivedName(text: string): string {
  const bytes = unescapeName(text);
  const name = bytes === null ? text : Buffer.from(bytes).toString('utf8');
  return bytes !== null && Buffer.from(name).equals(bytes) ? name : text;
}

/** The last name of a path. */
export const lastName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

async function addEntry(tar: Pack, bytes: ByteStore, name: string, { file, modifiedAt: mtime }: EntryRecord): Promise<void> {
  const added = Promise.withResolvers<void>();
  const done = (error?: Error | null): void => (error ? added.reject(error) : added.resolve());
  if (file === null) {
    tar.entry({ name: `${name}/`, type: 'directory', mtime }, done);
    return added.promise;
  }
  const sink = tar.entry({ name, size: Number(file.sizeBytes), mtime }, done);
  await Promise.all([added.promise, pipeline(createReadStream(bytes.path(file.id, file.sha256)), sink)]);
}

/**
 * Sends an entry and what is in it as one tar, whose names begin with the entry's own. A file whose bytes are purged meanwhile
 * breaks the answer off: an archive that ends is complete.
 */
export async function sendArchive(
  res: Response,
  bytes: ByteStore,
  top: EntryRecord,
  inside: AsyncIterable<EntryRecord>,
): Promise<void> {
  const base = lastName(top.path);
  res.attachment(`${archivedName(base)}.tar`);
  res.setHeader('Content-Type', 'application/x-tar');
  // A stream's end is watched by more than the ten that Node takes for a leak.
  res.setMaxListeners(20);
  const tar = pack();
  const nameOf = (path: string): string => [base, ...path.slice(top.path.length).split('/').slice(1)].map(archivedName).join('/');
  const fill = async (): Promise<void> => {
    try {
      await addEntry(tar, bytes, nameOf(top.path), top);
      for await (const entry of inside) await addEntry(tar, bytes, nameOf(entry.path), entry);
      tar.finalize();
    } catch (error) {
      tar.destroy(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  };
  await Promise.all([fill(), pipeline(tar, res)]);
}
