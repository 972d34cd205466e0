/** What one reading of a console carries at most: it comes as a workflow's result, and Temporal warns above 256 KiB. */
export const consolePageBytes = 128 * 1024;

/** Which bytes of a console are wanted: the last so many, or so many from an offset. */
export type ConsoleRange = { last: number } | { from: number; bytes: number };

/** Some bytes of a console, as its host had them. */
export interface ConsolePage {
  from: number;
  /** Of all that is kept. A guest that writes much loses the oldest, and the offsets begin anew. */
  totalBytes: number;
  base64: string;
}

/** From where to where a range leads in so many bytes; never more than a page. */
export function consoleSpan(range: ConsoleRange, totalBytes: number): { from: number; to: number } {
  const wanted = 'last' in range ? range.last : range.bytes;
  const bytes = Math.min(wanted, consolePageBytes);
  const from = 'last' in range ? Math.max(0, totalBytes - bytes) : Math.min(range.from, totalBytes);
  return { from, to: Math.min(totalBytes, from + bytes) };
}
