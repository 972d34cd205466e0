import type { Writable } from 'node:stream';

/** What commands print: tables for people, JSON for programs, progress for whoever watches. */
export interface Screen {
  out: Writable;
  err: Writable & { isTTY?: boolean };
  json: boolean;
}

export function print(screen: Screen, text: string): void {
  screen.out.write(`${text}\n`);
}

/** A control character that a caller put into a name must not reach the terminal. */
function plain(value: unknown): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return String(value ?? '-').replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

/** Rows as a table, or as a JSON array. */
export function printRows<T>(screen: Screen, rows: T[], columns: Record<string, (row: T) => unknown>): void {
  if (screen.json) {
    print(screen, JSON.stringify(rows, null, 2));
    return;
  }
  const table = [
    Object.keys(columns).map((name) => name.toUpperCase()),
    ...rows.map((row) => Object.values(columns).map((cell) => plain(cell(row)))),
  ];
  const widths = Object.keys(columns).map((_, column) => Math.max(...table.map((cells) => cells[column]?.length ?? 0)));
  for (const cells of table)
    print(
      screen,
      cells
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

/** One thing, its fields below each other, or as JSON. */
export function printOne(screen: Screen, value: object): void {
  if (screen.json) {
    print(screen, JSON.stringify(value, null, 2));
    return;
  }
  const fields = Object.entries(value).filter(([, field]) => field !== null && field !== undefined);
  const width = Math.max(...fields.map(([name]) => name.length));
  for (const [name, field] of fields) {
    print(screen, `${name.padEnd(width)}  ${plain(typeof field === 'object' ? JSON.stringify(field) : field)}`);
  }
}

export function sizeOf(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

const everyMs = 200;

/** Passes bytes through and says how far they are, on a terminal alone. */
export async function* withProgress(
  screen: Screen,
  name: string,
  total: number | null,
  source: AsyncIterable<Uint8Array>,
): AsyncIterable<Uint8Array> {
  const watched = screen.err.isTTY === true && !screen.json;
  let [done, shownAt] = [0, 0];
  const show = (end: string) => {
    const of = total === null ? '' : ` of ${sizeOf(total)} (${total === 0 ? 100 : Math.floor((100 * done) / total)} %)`;
    screen.err.write(`\r\u001b[K${plain(name)}  ${sizeOf(done)}${of}${end}`);
  };
  for await (const chunk of source) {
    done += chunk.length;
    if (watched && Date.now() - shownAt > everyMs) {
      shownAt = Date.now();
      show('');
    }
    yield chunk;
  }
  if (watched) show('\n');
}
