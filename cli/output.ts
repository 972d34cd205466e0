import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** Where commands print to: tables for people or JSON for programs, and progress on a terminal. */
export interface Output {
  out: Writable;
  err: Writable & { isTTY?: boolean };
  json: boolean;
}

export function print(output: Output, text: string): void {
  output.out.write(`${text}\n`);
}

/** What bytes are written to has ended. */
export class ReaderEndedError extends Error {}

/** Bytes as they are; returns when the reader has taken enough of them, so that a slow one does not fill the memory. */
export async function writeBytes(out: Writable, bytes: Uint8Array): Promise<void> {
  if (out.write(bytes)) return;
  const over = new AbortController();
  const { signal } = over;
  const ended = async (): Promise<never> => {
    if (!out.destroyed) await once(out, 'close', { signal }).catch(() => undefined);
    throw new ReaderEndedError('what reads it has ended');
  };
  try {
    // One that has ended takes nothing any more, and does not always say so again.
    await Promise.race([once(out, 'drain', { signal }).catch(ended), ended()]);
  } finally {
    over.abort();
  }
}

/** Replaces control characters, and those that change a text's direction: what somebody put into a name must not reach the terminal. */
function printable(value: unknown): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return String(value ?? '-').replaceAll(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, '?');
}

/** A message of several lines, of which a guest or another client may have written a part. */
export const printableLines = (text: string): string => text.split('\n').map(printable).join('\n');

/** For people, beside what is printed. */
export function printNote({ err }: Output, text: string): void {
  err.write(`berth: ${printableLines(text)}\n`);
}

/** As JSON.stringify, without the control characters that it leaves. */
function jsonOf(value: unknown): string {
  return JSON.stringify(value, null, 2).replaceAll(
    /[\u007f-\u009f]/g,
    (character) => `\\u00${character.charCodeAt(0).toString(16)}`,
  );
}

/** Rows as a table, or as a JSON array. */
export function printRows<T>(output: Output, rows: T[], columns: Record<string, (row: T) => unknown>): void {
  if (output.json) {
    print(output, jsonOf(rows));
    return;
  }
  const table = [
    Object.keys(columns).map((name) => name.toUpperCase()),
    ...rows.map((row) => Object.values(columns).map((cell) => printable(cell(row)))),
  ];
  const widths = Object.keys(columns).map((_, column) => Math.max(...table.map((cells) => cells[column]?.length ?? 0)));
  for (const cells of table)
    print(
      output,
      cells
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

/** One resource: a line for each field, or JSON. */
export function printOne(output: Output, value: object): void {
  if (output.json) {
    print(output, jsonOf(value));
    return;
  }
  const fields = Object.entries(value).filter(([, field]) => field !== null && field !== undefined);
  const width = Math.max(...fields.map(([name]) => name.length));
  for (const [name, field] of fields) {
    print(output, `${name.padEnd(width)}  ${printable(typeof field === 'object' ? JSON.stringify(field) : field)}`);
  }
}

export function sizeOf(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

const progressMs = 200;

/** Passes bytes through, and shows on a terminal how many there were. */
export async function* withProgress(
  output: Output,
  name: string,
  total: number | null,
  source: AsyncIterable<Uint8Array>,
): AsyncIterable<Uint8Array> {
  const isShown = output.err.isTTY === true && !output.json;
  let [done, shownAt] = [0, 0];
  const show = (end: string) => {
    const of = total === null ? '' : ` of ${sizeOf(total)} (${total === 0 ? 100 : Math.floor((100 * done) / total)} %)`;
    output.err.write(`\r\u001b[K${printable(name)}  ${sizeOf(done)}${of}${end}`);
  };
  for await (const chunk of source) {
    done += chunk.length;
    if (isShown && Date.now() - shownAt > progressMs) {
      shownAt = Date.now();
      show('');
    }
    yield chunk;
  }
  if (isShown) show('\n');
}
