import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { duration, parseTime } from '../../cli/times.ts';

const nowMs = Date.parse('2026-11-28T12:00:00.000Z');
const parse = (text: string) => parseTime(text, nowMs);
const refusal = /RFC 3339, such as 2026-11-25T18:00:00Z, or one from now on, such as 15m/;

describe('a time', () => {
  test.each([
    ['2026-11-25T18:00:00Z', '2026-11-25T18:00:00.000Z'],
    ['2026-11-25t18:00:00.5z', '2026-11-25T18:00:00.500Z'],
    ['2026-11-25T18:00:00.123456789+05:30', '2026-11-25T12:30:00.123Z'],
    ['2026-11-25T18:00:00-00:00', '2026-11-25T18:00:00.000Z'],
    ['2024-02-29T00:00:00Z', '2024-02-29T00:00:00.000Z'],
    ['2000-02-29T00:00:00Z', '2000-02-29T00:00:00.000Z'],
    ['0000-01-01T00:00:00Z', '0000-01-01T00:00:00.000Z'],
    ['90s', '2026-11-28T12:01:30.000Z'],
    ['15m', '2026-11-28T12:15:00.000Z'],
    ['+2h', '2026-11-28T14:00:00.000Z'],
    ['1d', '2026-11-29T12:00:00.000Z'],
    ['+900', '2026-11-28T12:15:00.000Z'],
  ])('%s is %s', (text, expected) => expect(parse(text)).toBe(expected));

  test.each([
    '2026-02-30T00:00:00Z',
    '2026-02-29T00:00:00Z',
    '1900-02-29T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-13-01T00:00:00Z',
    '2026-00-01T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-11-25T24:00:00Z',
    '2026-11-25T18:60:00Z',
    '2026-11-25T18:00:60Z',
    '2026-11-25T18:00:00+24:00',
    '2026-11-25T18:00:00+01:60',
    '2026-11-25T18:00:00+0100',
    '2026-11-25T18:00:00',
    '2026-11-25T18:00Z',
    '2026-11-25 18:00:00Z',
    '2026-11-25',
    '12026-11-25T18:00:00Z',
    '0000-01-01T00:00:00+01:00',
    '9999-12-31T23:59:59-01:00',
    'tomorrow 3',
    'Nov 25 2026',
    '900',
    '2026',
    '-900',
    '+-900',
    '15 m',
    '15min',
    '1.5h',
    '999999999d',
    '1234567890s',
    ' 15m',
    '15m\n',
    '',
  ])('%j is refused, with examples', (text) => expect(() => parse(text)).toThrow(refusal));

  test('of every instant that RFC 3339 can write is that instant, in every offset', () => {
    const instant = fc.date({
      min: new Date('0001-01-01T00:00:00Z'),
      max: new Date('9998-12-31T00:00:00Z'),
      noInvalidDate: true,
    });
    fc.assert(
      fc.property(instant, fc.integer({ min: -1439, max: 1439 }), (at, offset) => {
        const local = new Date(at.getTime() + offset * 60_000).toISOString().slice(0, -1);
        const [hours, minutes] = [Math.floor(Math.abs(offset) / 60), Math.abs(offset) % 60].map((n) =>
          String(n).padStart(2, '0'),
        );
        expect(parse(`${local}${offset < 0 ? '-' : '+'}${hours}:${minutes}`)).toBe(at.toISOString());
      }),
    );
  });

  test('with fields in or out of range is accepted when its day and its time exist, and refused otherwise', () => {
    const two = (n: number) => String(n).padStart(2, '0');
    const field = (max: number) => fc.integer({ min: 0, max });
    fc.assert(
      fc.property(
        field(9999),
        field(13),
        field(32),
        field(25),
        field(61),
        field(61),
        (year, month, day, hour, minute, second) => {
          const date = new Date(0);
          date.setUTCFullYear(year, month - 1, day);
          const exists = date.getUTCMonth() === month - 1 && date.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
          const text = `${String(year).padStart(4, '0')}-${two(month)}-${two(day)}T${two(hour)}:${two(minute)}:${two(second)}Z`;
          if (exists) expect(parse(text)).toBe(text.replace('Z', '.000Z'));
          else expect(() => parse(text)).toThrow(refusal);
        },
      ),
    );
  });

  test('is never made from an invalid text: every accepted value is RFC 3339 afterwards', () => {
    const scraps = fc.array(fc.constantFrom('2026', '-', '02', '30', 'T', ':', '00', 'Z', '+', '9', 'm', ' ', 'tomorrow', '.'), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          scraps.map((parts) => parts.join('')),
        ),
        (text) => {
          let parsed: string;
          try {
            parsed = parse(text);
          } catch (error) {
            expect(String(error)).toMatch(refusal);
            return;
          }
          expect(text).toMatch(/^(\+?\d+[smhd]|\+\d+|\d{4}-\d\d-\d\d[Tt].*([Zz]|[+-]\d\d:\d\d))$/);
          expect(parsed).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
        },
      ),
      { numRuns: 1_000 },
    );
  });
});

describe('a duration', () => {
  test('is a whole number of seconds, minutes, hours or days', () => {
    expect(['90s', '15m', '2h', '1d'].map(duration)).toEqual([90, 900, 7_200, 86_400]);
  });

  test.each(['900', '+15m', '1.5h', '15', 'h', '', '1234567890s', '-5m'])('%j is refused, with an example', (text) => {
    expect(() => duration(text)).toThrow(/such as 90s, 15m, 2h or 1d/);
  });
});
