import { Prisma } from '../../generated/prisma/client.ts';
import { type FileRecord, requireDigest } from '../files/file-record.ts';

/** Pairs of a client's own that an entry carries. */
export type EntryMetadata = Record<string, string>;

/** A path of an owner's tree. */
export interface EntryRecord {
  path: string;
  /** null: a folder. */
  file: FileRecord | null;
  metadata: EntryMetadata;
  expiresAt: Date | null;
  createdAt: Date;
  modifiedAt: Date;
}

/** Where a page of a list begins, and how many rows it has. */
export interface PathPage {
  /** The path of the last row of the page before; null: the first page. */
  after: string | null;
  limit: number;
}

/** What a site allows, and when it is. */
export interface TreeSite {
  /** Of an owner, where its row says nothing. */
  maxEntries: number;
  trashDays: number;
  nowMs: number;
}

export const withFile = { file: true } as const;

type EntryRow = Prisma.TreeEntryGetPayload<{ include: typeof withFile }>;

export const entryOf = ({ path, file, metadata, expiresAt, createdAt, modifiedAt }: EntryRow): EntryRecord => ({
  path,
  file: file === null ? null : requireDigest(file),
  metadata: metadata as EntryMetadata,
  expiresAt,
  createdAt,
  modifiedAt,
});

/** The SHA-256 of an entry's content, null for a folder; undefined where there is no entry. */
export function digestOf(entry: EntryRecord | null): string | null | undefined {
  return entry === null ? undefined : (entry.file?.sha256 ?? null);
}

/** Of the rows of an entry and, where it is a folder, of all in it. `0` is the character after `/`. */
export const subtree = (owner: string, path: string): Prisma.Sql =>
  Prisma.sql`"ownerId" = ${owner} AND (path = ${path} OR path >= ${`${path}/`} AND path < ${`${path}0`})`;
