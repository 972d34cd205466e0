import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { escapeName } from '../../../model/outputs/names.ts';
import { refuseUnmet, unconditional } from '../../../model/tree/condition.ts';
import { afterPrefix, folderOf, foldersOf, treePathProblem } from '../../../model/tree/path.ts';

describe('paths', () => {
  test.each([
    'a',
    'a/b/c',
    '.hidden',
    'a b',
    'é',
    'é',
    '😀/😀',
    'a\\x0ab',
    '\\xff\\xfe',
    `${'n'.repeat(255)}/x`,
    '\\x5c',
    '%2e%2e',
    '...',
    ' ',
  ])('%j is one', (path) => expect(treePathProblem(path)).toBeNull());

  test.each([
    '',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    'a/../b',
    'a/./b',
    'a\nb',
    'a\u0000b',
    'a\\x00b',
    'a\\x2fb',
    'a\\b',
    '\\xFF',
    '\\x41',
    '\u202etxt.exe',
    'n'.repeat(256),
    '\\xff'.repeat(256),
    'a/'.repeat(64) + 'a',
    `${'n'.repeat(250)}/`.repeat(8) + 'n'.repeat(250),
    '\ud800',
  ])('%j is none', (path) => expect(treePathProblem(path)).not.toBeNull());

  test('each name of bytes that Linux takes is the text of one path', () => {
    const name = fc.uint8Array({ minLength: 1, maxLength: 255 }).filter((bytes) => !bytes.includes(0) && !bytes.includes(0x2f));
    fc.assert(
      fc.property(name, (bytes) => {
        const text = escapeName(bytes);
        expect(treePathProblem(text) === null).toBe(text !== '.' && text !== '..');
      }),
    );
  });

  test('lie in their folders', () => {
    expect([folderOf('a'), folderOf('a/b/c')]).toEqual([null, 'a/b']);
    expect([foldersOf('a'), foldersOf('a/b/c')]).toEqual([[], ['a', 'a/b']]);
  });
});

test('the end of a prefix is after all that begin with it, and before all others, by bytes', () => {
  const order = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));
  const text = fc.string({ unit: 'binary', maxLength: 4 });
  fc.assert(
    fc.property(text, text, text, (prefix, rest, other) => {
      const end = afterPrefix(prefix);
      if (end !== null) expect(order(prefix + rest, end)).toBeLessThan(0);
      if (!other.startsWith(prefix) && order(other, prefix) > 0) expect(order(other, end ?? '')).toBeGreaterThanOrEqual(0);
    }),
  );
  expect([afterPrefix(''), afterPrefix('a'), afterPrefix('\ud7ff'), afterPrefix('\u{10ffff}')]).toEqual([
    null,
    'b',
    '\ue000',
    null,
  ]);
});

test.each([
  [{ ifMatch: '*' }, undefined, false],
  [{ ifMatch: '*' }, 'x', true],
  [{ ifMatch: '*' }, null, true],
  [{ ifMatch: ['x', 'y'] }, 'y', true],
  [{ ifMatch: ['x'] }, 'y', false],
  [{ ifMatch: ['x'] }, null, false],
  [{ ifMatch: [] }, 'x', false],
  [{ ifNoneMatch: '*' }, undefined, true],
  [{ ifNoneMatch: '*' }, 'x', false],
  [{ ifNoneMatch: '*' }, null, false],
  [{ ifNoneMatch: ['x'] }, 'x', false],
  [{ ifNoneMatch: ['x'] }, 'y', true],
  [{}, undefined, true],
] as const)('the condition %j over %j is met: %s', (condition, found, met) => {
  const check = () => refuseUnmet({ ...unconditional, ...condition }, found);
  if (met) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ code: 'precondition-failed' }));
});
