import { z } from 'zod';
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

interface Keyed {
  id: string;
  createdAt: Date;
}

const Position = z.tuple([z.string(), z.int(), z.string().max(128)]);

/** @param list the kind of list; a cursor of another one is refused. */
function encode(list: string, { createdAt, id }: Keyed): string {
  return Buffer.from(JSON.stringify([list, createdAt.getTime(), id])).toString('base64url');
}

function decode(list: string, cursor: string): Keyed {
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

/** The part of a Prisma query that fetches a page and one row more, by (createdAt, id) downwards. */
export function pageQuery(list: string, query: z.output<typeof PageQuery>) {
  const after = query.cursor === undefined ? null : decode(list, query.cursor);
  return {
    where: after
      ? {
          createdAt: { lte: after.createdAt },
          OR: [{ createdAt: { lt: after.createdAt } }, { createdAt: after.createdAt, id: { lt: after.id } }],
        }
      : {},
    orderBy: [{ createdAt: 'desc' as const }, { id: 'desc' as const }],
    take: query.limit + 1,
  };
}

/** The page from what `pageQuery` fetched. */
export function page<R extends Keyed, T>(
  list: string,
  limit: number,
  rows: R[],
  show: (row: R) => T,
): { items: T[]; next: string | null } {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(show), next: rows.length > limit && last ? encode(list, last) : null };
}
