import type { Request } from 'express';
import type { ContentCondition } from '../../model/tree/condition.ts';

/** The ETags of a header, without their quotes; weak ones match nothing, as If-Match has it. */
function etagsOf(header: string | undefined): string[] | '*' | null {
  if (header === undefined) return null;
  if (header.trim() === '*') return '*';
  return [...header.matchAll(/(?:^|,)\s*"([^"]*)"/g)].map(([, etag]) => etag ?? '');
}

export const readCondition = (req: Pick<Request, 'get'>): ContentCondition => ({
  ifMatch: etagsOf(req.get('if-match')),
  ifNoneMatch: etagsOf(req.get('if-none-match')),
});
