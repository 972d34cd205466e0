import { InvalidArgumentError } from 'commander';

const secondsOf = { s: 1, m: 60, h: 3600, d: 86_400 } as const;
type Unit = keyof typeof secondsOf;

const rfc3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-](\d\d):(\d\d))$/;
const relative = /^\+?(\d{1,9})([smhd])$|^\+(\d{1,9})$/;
/** What RFC 3339 can write; Date goes further. */
const [firstMs, lastMs] = [Date.parse('0000-01-01T00:00:00.000Z'), Date.parse('9999-12-31T23:59:59.999Z')];

/** Days of a month, 1 to 12, in the Gregorian calendar. */
function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

/** Milliseconds since 1970, or null for what is not an RFC 3339 time of a day that exists. */
function parseRfc3339(text: string): number | null {
  const match = rfc3339.exec(text);
  if (!match) return null;
  const [year, month, day, hour, minute, second, offsetHour = 0, offsetMinute = 0] = match
    .slice(1)
    .map((field) => (field === undefined ? undefined : Number(field))) as [number, number, number, number, number, number];
  if (month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) return null;
  // Leap seconds are left out: neither Date nor the API knows them.
  if (hour > 23 || minute > 59 || second > 59 || offsetHour > 23 || offsetMinute > 59) return null;
  return Date.parse(text.toUpperCase());
}

/**
 * A time as the API takes it, from RFC 3339 (`2026-11-25T18:00:00Z`, `…+01:00`) or relative to now: `90s`, `15m`, `2h`,
 * `1d`, each also with a plus, and `+900` in seconds.
 */
export function parseTime(text: string, nowMs: number): string {
  const [, count, unit = 's', seconds] = relative.exec(text) ?? [];
  const number = count ?? seconds;
  const ms = number === undefined ? parseRfc3339(text) : nowMs + Number(number) * secondsOf[unit as Unit] * 1000;
  if (ms === null || Number.isNaN(ms) || ms < firstMs || ms > lastMs)
    throw new InvalidArgumentError(
      'expected a time as in RFC 3339, such as 2026-11-25T18:00:00Z, or one from now on, such as 15m, 2h or +900',
    );
  return new Date(ms).toISOString();
}

/** Argument parser of a command; a second parameter would be given what the option was before. */
export const time = (text: string): string => parseTime(text, Date.now());

/** Argument parser: seconds, from 90s, 15m, 2h or 1d. */
export function duration(text: string): number {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('expected a duration such as 90s, 15m, 2h or 1d');
  return Number(count) * secondsOf[unit as Unit];
}
