import { z } from 'zod';
import type { PathPage } from '../../ledger/tree/entry-record.ts';
import { BerthError } from '../../model/errors.ts';

const Cursor = z.tuple([z.literal('tree'), z.string().max(2048)]);

const encode = (path: string): string => Buffer.from(JSON.stringify(['tree', path])).toString('base64url');

function decode(cursor: string): string {
  try {
    const [, path] = Cursor.parse(JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')));
    if (path.isWellFormed() && !path.includes('\u0000')) return path;
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof z.ZodError)) throw error;
  }
  throw new BerthError('bad-request', 'The cursor is not one of this list', {
    fields: [{ pointer: 'query.cursor', detail: 'found no cursor of this list; expected the `next` of a page of it' }],
  });
}

/** Answers one page of a list in the order of paths. */
export async function readPathPage<R extends { path: string }, T>(
  { limit, cursor }: { limit: number; cursor?: string | undefined },
  read: (page: PathPage) => Promise<R[]>,
  show: (row: R) => T,
): Promise<{ items: T[]; next: string | null }> {
  const rows = await read({ limit: limit + 1, after: cursor === undefined ? null : decode(cursor) });
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(show), next: rows.length > limit && last ? encode(last.path) : null };
}
