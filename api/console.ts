import type { Request, Response } from 'express';
import { type ConsolePage, type ConsoleRange, consolePageBytes } from '../model/console.ts';
import { BerthError } from '../model/errors.ts';

/**
 * Which bytes a caller requests: one Range (RFC 9110), else the last `tail`. Several ranges at once, and an invalid one,
 * are ignored, as the standard allows.
 */
export function consoleRange(req: Pick<Request, 'get'>, tail: number): ConsoleRange {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(req.get('range') ?? '');
  const [first, last] = [match?.[1] ?? '', match?.[2] ?? ''];
  if (first === '') return { last: last === '' ? tail : Number(last) };
  if (last !== '' && Number(last) < Number(first)) return { last: tail };
  return { from: Number(first), bytes: last === '' ? consolePageBytes : Number(last) - Number(first) + 1 };
}

/** Sends what was read: as a part when a range was requested. Throws range-not-satisfiable when the range is empty. */
export function sendConsole(req: Request, res: Response, page: ConsolePage): void {
  const bytes = Buffer.from(page.base64, 'base64');
  const ranged = /^bytes=\d*-\d*$/.test(req.get('range') ?? '');
  res.set({ 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store', 'Accept-Ranges': 'bytes' });
  if (ranged && bytes.length === 0) {
    res.setHeader('Content-Range', `bytes */${page.totalBytes}`);
    throw new BerthError('range-not-satisfiable', `Found Range: ${req.get('range')}; the console has ${page.totalBytes} bytes`);
  }
  if (ranged) {
    res.status(206);
    res.setHeader('Content-Range', `bytes ${page.from}-${page.from + bytes.length - 1}/${page.totalBytes}`);
  }
  res.end(bytes);
}
