import { formatMicros } from '../books/money.ts';

/** What has changed an owner's money in a month, of one subject and for one reason. */
export interface StatementLine {
  currency: string;
  /** A lease, or an account that was adjusted. */
  subject: string;
  reason: string;
  /** How many transfers it sums. */
  transfers: number;
  /** RFC 3339: of the first and the last of them. */
  from: string;
  until: string;
  /** Below zero it was taken. */
  amountMicros: bigint;
}

/** An owner's money of one currency over a month: opening + the lines = closing. */
export interface StatementPart {
  currency: string;
  openingMicros: bigint;
  closingMicros: bigint;
  /** Of closing, what is held for leases that go on. */
  heldMicros: bigint;
  lines: StatementLine[];
}

export interface Statement {
  owner: { id: string; name: string };
  /** YYYY-MM, in UTC. */
  month: string;
  /** Nothing will be added. */
  final: boolean;
  parts: StatementPart[];
}

export const monthPattern = /^(20\d{2})-(0[1-9]|1[0-2])$/;

/** The month's begin and end in UTC, ms since 1970; null for a text that names none. */
export function monthInterval(month: string): { fromMs: number; untilMs: number } | null {
  const match = monthPattern.exec(month);
  if (match === null) return null;
  const [year, number] = [Number(match[1]), Number(match[2])];
  return { fromMs: Date.UTC(year, number - 1), untilMs: Date.UTC(year, number) };
}

export const monthOf = (ms: number): string => new Date(ms).toISOString().slice(0, 7);

const columns = ['month', 'owner', 'currency', 'line', 'subject', 'reason', 'transfers', 'from', 'until', 'amount'] as const;

/** RFC 4180. A text that spreadsheets would compute is led by an apostrophe. */
function csvField(value: string | number): string {
  const text = typeof value === 'string' && /^[=+@\t\r]|^-(?!\d+(\.\d+)?$)/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const csvLine = (fields: readonly (string | number)[]): string => `${fields.map(csvField).join(',')}\r\n`;

/** One line each, those of the opening and the closing balance as well. Amounts are units of the currency, exact to six decimals. */
export function statementCsv({ owner, month, parts }: Statement): string {
  const rows = parts.flatMap(({ currency, openingMicros, closingMicros, lines }) => {
    const row = (line: string, rest: readonly (string | number)[]) => csvLine([month, owner.id, currency, line, ...rest]);
    return [
      row('opening', ['', '', '', '', '', formatMicros(openingMicros)]),
      ...lines.map(({ subject, reason, transfers, from, until, amountMicros }) =>
        row('change', [subject, reason, transfers, from, until, formatMicros(amountMicros)]),
      ),
      row('closing', ['', '', '', '', '', formatMicros(closingMicros)]),
    ];
  });
  return csvLine(columns) + rows.join('');
}

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const html = (text: string | number): string => String(text).replaceAll(/[&<>"']/g, (char) => escapes[char]!);

const cells = (tag: 'td' | 'th', values: readonly (string | number)[]): string =>
  `<tr>${values.map((value) => `<${tag}>${html(value)}</${tag}>`).join('')}</tr>\n`;

/** A page on its own, without scripts and styles: it is printed, or kept. */
export function statementHtml({ owner, month, final, parts }: Statement): string {
  const tables = parts.map(
    ({ currency, openingMicros, closingMicros, heldMicros, lines }) => `<h2>${html(currency)}</h2>
<table border="1">
${cells('th', ['subject', 'reason', 'transfers', 'from', 'until', `amount in ${currency}`])}${cells('td', ['opening balance', '', '', '', '', formatMicros(openingMicros)])}${lines
  .map(({ subject, reason, transfers, from, until, amountMicros }) =>
    cells('td', [subject, reason, transfers, from, until, formatMicros(amountMicros)]),
  )
  .join('')}${cells('td', ['closing balance', '', '', '', '', formatMicros(closingMicros)])}</table>
<p>Of the closing balance ${html(formatMicros(heldMicros))} ${html(currency)} are held for leases that go on.</p>
`,
  );
  const title = html(`Statement of ${owner.name} for ${month}`);
  const state = final ? 'It is final.' : 'The month is not over: it will change.';
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${title}</title></head>
<body><h1>${title}</h1>
<p>${html(owner.id)}. Times are UTC, amounts exact to a millionth. ${state}</p>
${tables.join('') || '<p>There was no money.</p>\n'}</body></html>
`;
}
