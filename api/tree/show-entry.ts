import type { z } from 'zod';
import type { EntryRecord } from '../../ledger/tree/entry-record.ts';
import type { DeletionRecord } from '../../ledger/tree/trash.ts';
import { iso } from '../schemas/common.ts';
import type { Deletion, Entry } from '../schemas/data/tree.ts';

export const showEntry = ({ path, file, metadata, expiresAt, createdAt, modifiedAt }: EntryRecord): z.input<typeof Entry> => ({
  path,
  kind: file === null ? 'folder' : 'file',
  file: file?.id ?? null,
  sizeBytes: file === null ? null : Number(file.sizeBytes),
  sha256: file?.sha256 ?? null,
  metadata,
  expiresAt: iso(expiresAt),
  createdAt: createdAt.toISOString(),
  modifiedAt: modifiedAt.toISOString(),
});

export const showDeletion = ({ purgeAt, createdAt, ...same }: DeletionRecord): z.input<typeof Deletion> => ({
  ...same,
  purgeAt: purgeAt.toISOString(),
  createdAt: createdAt.toISOString(),
});

/** Where an entry is described: each name encoded, its slashes not. */
export const entryLocation = (path: string): string => `/v1/tree/${path.split('/').map(encodeURIComponent).join('/')}`;
