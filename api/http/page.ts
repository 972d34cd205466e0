import { z } from 'zod';
import type { PagePosition, PageRequest } from '../../ledger/page.ts';
import { BerthError } from '../../model/errors.ts';

/** `?limit=&cursor=` of every list, newest first. */
export const PageQuery = z.strictObject({
  limit: z.coerce
    .number({ error: 'expected a whole number from 1 to 200' })
    .int({ error: 'expected a whole number from 1 to 200' })
    .min(1)
    .max(200)
    .default(50)
    .meta({ description: 'How many items at most' }),
  cursor: z.string().max(256).optional().meta({ description: 'The `next` of the page before' }),
});

export function pageOf<T extends z.ZodType>(item: T): z.ZodObject {
  return z.strictObject({
    items: z.array(item),
    next: z.string().nullable().meta({ description: 'The cursor of the next page; null on the last one' }),
  });
}

const Position = z.tuple([z.string(), z.int(), z.string().max(128)]);

/** @param list the kind of list; a cursor of another one is refused. */
function encode(list: string, { createdAt, id }: PagePosition): string {
  return Buffer.from(JSON.stringify([list, createdAt.getTime(), id])).toString('base64url');
}

function decode(list: string, cursor: string): PagePosition {
  try {
    const [kind, ms, id] = Position.parse(JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')));
    const createdAt = new Date(ms);
    if (kind === list && !Number.isNaN(createdAt.getTime()) && id.isWellFormed() && !id.includes('\u0000'))
      return { createdAt, id };
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof z.ZodError)) throw error;
  }
  throw new BerthError('bad-request', 'The cursor is not one of this list', {
    fields: [
      { pointer: 'query.cursor', detail: `found ${JSON.stringify(cursor)}; expected the \`next\` of a page of this list` },
    ],
  });
}

/** Answers one page of a list: `read` returns the page's rows and one more when another page follows. */
export async function readPage<R extends PagePosition, T>(
  list: string,
  { limit, cursor }: z.output<typeof PageQuery>,
  read: (page: PageRequest) => Promise<R[]>,
  show: (row: R) => T,
): Promise<{ items: T[]; next: string | null }> {
  const rows = await read({ limit, after: cursor === undefined ? null : decode(list, cursor) });
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(show), next: rows.length > limit && last ? encode(list, last) : null };
}
