import type { Request } from 'express';
import { BerthError } from '../../model/errors.ts';

/** How much one call appends to a log at most, and how much a node's log holds here; the host's own limit is lower. */
const logChunkBytes = 64 * 2 ** 20;
const logBytes = 2 ** 30;

/** Where the bytes of a call belong in a log: `bytes <from>-<to>/*`, as many as its Content-Length. */
export function contentRange(req: Pick<Request, 'get'>): { from: number; length: number } {
  const found = req.get('content-range');
  const match = /^bytes (\d{1,15})-(\d{1,15})\/\*$/.exec(found ?? '');
  const [from, to] = [Number(match?.[1]), Number(match?.[2])];
  const length = to - from + 1;
  if (match && length > 0 && Number(req.get('content-length')) === length) {
    if (length <= logChunkBytes && to < logBytes) return { from, length };
    throw new BerthError('too-large', `A call takes at most ${logChunkBytes} bytes, and a log holds at most ${logBytes}`);
  }
  throw new BerthError('bad-request', 'The Content-Range is not valid, or not that of a body with a Content-Length', {
    fields: [{ pointer: 'header.Content-Range', detail: `found ${found ?? 'nothing'}; expected bytes <from>-<to>/*` }],
  });
}
