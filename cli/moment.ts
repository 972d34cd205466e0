import { InvalidArgumentError } from 'commander';

const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** A moment in RFC 3339, or from now on: 90s, 15m, 2h, 1d; +90 is so many seconds. */
export function moment(text: string): string {
  const [, count, unit = 's'] = /^\+?(\d{1,9})([smhd])$/.exec(text) ?? /^\+(\d{1,9})$/.exec(text) ?? [];
  if (count !== undefined) return new Date(Date.now() + Number(count) * units[unit]! * 1000).toISOString();
  const ms = Date.parse(text);
  if (Number.isNaN(ms))
    throw new InvalidArgumentError('expected a time such as 2026-11-25T18:00:00Z, or 15m or +900 from now on');
  return new Date(ms).toISOString();
}

/** Seconds: 90s, 15m, 2h, 1d. */
export function duration(text: string): number {
  const [, count, unit] = /^(\d+)([smhd])$/.exec(text) ?? [];
  if (count === undefined || unit === undefined) throw new InvalidArgumentError('expected a duration such as 90s, 15m, 2h or 1d');
  return Number(count) * units[unit]!;
}
