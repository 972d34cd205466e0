import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { escapeName, symbolsOf, unescapeName } from '../../../../model/outputs/names.ts';
import { patternProblem } from '../../../../model/outputs/pattern-syntax.ts';
import { Selection } from '../../../../model/outputs/patterns.ts';
import { TaskSpec } from '../../../../model/task.ts';

const selects = (patterns: string[], path: string): boolean => new Selection(patterns).match(path).length > 0;

describe('a pattern', () => {
  it.each<[string, string[], string[]]>([
    ['out/*', ['out/a', 'out/b.txt'], ['out/.hidden', 'out/a/b', 'a', 'out']],
    ['out/.*', ['out/.hidden'], ['out/a']],
    ['*.txt', ['a.txt', 'é.txt'], ['a.tx', 'out/a.txt', '.txt']],
    ['out/**/*.txt', ['out/a.txt', 'out/a/b/c.txt'], ['out/a', 'out/.git/a.txt', 'a.txt']],
    ['out/**', ['out/a', 'out/a/b'], ['out', 'out/.a', 'outer/a']],
    ['**', ['a', 'a/b/c'], ['.a', 'a/.b']],
    ['**/a/**/b', ['a/b', 'x/a/y/z/b', 'a/a/b'], ['b', 'x/b', 'a/c']],
    // A folder that a pattern names is all in it, hidden files too.
    ['out', ['out', 'out/a', 'out/.hidden/b'], ['outer', 'x/out']],
    ['out/', ['out/a', 'out/.hidden'], ['out']],
    ['run-*/', ['run-1/a', 'run-1/b/.c'], ['run-1', 'run/a']],
    ['out/**/', ['out/a/b', 'out/a/.b'], ['out/a']],
    ['a?c', ['abc', 'aéc', 'a👩c'], ['ac', 'abbc']],
    ['?bc', ['abc'], ['.bc']],
    ['a[0-9]', ['a1'], ['aa', 'a']],
    ['a[!0-9x]', ['aa'], ['a1', 'ax']],
    ['a[^0-9]', ['aa'], ['a1']],
    ['a[]]', ['a]'], ['a']],
    ['a[a-]', ['a-', 'aa'], ['ab']],
    // Names as they are: with characters of the syntax, and with bytes.
    ['out/result\\[1].txt', ['out/result[1].txt'], ['out/result1.txt']],
    ['out/result[1].txt', ['out/result1.txt'], ['out/result[1].txt']],
    ['out/result (1).txt', ['out/result (1).txt'], ['out/result 1.txt']],
    ['out/(a+)+b', ['out/(a+)+b'], ['out/ab', 'out/aab']],
    ['\\!a\\*\\{\\}', ['!a*{}'], ['!ab{}']],
    ['a\\xff', ['a\\xff'], ['a\\xfe', 'a']],
    ['a\\xc3\\xa9', ['aé'], ['a\\xc3']],
    ['a?', ['a\\xff', 'aé'], ['a\\xff\\xfe']],
    ['a[\\xf0-\\xff]', ['a\\xff'], ['a\\x80', 'aÿ']],
    ['a\\\\b', ['a\\x5cb'], ['ab']],
    ['a*c', ['a\\x0ac'], []],
  ])('%s', (pattern, matched, not) => {
    expect(patternProblem(pattern)).toBeNull();
    expect(matched.filter((path) => !selects([pattern], path))).toEqual([]);
    expect(not.filter((path) => selects([pattern], path))).toEqual([]);
  });

  it('with ! excludes, wherever it stands, also what is hidden', () => {
    const patterns = ['!out/**/*.tmp', 'out', '!out/cache'];
    expect(['out/a', 'out/b/c', 'out/tmp'].filter((path) => !selects(patterns, path))).toEqual([]);
    expect(
      ['out/a.tmp', 'out/b/c.tmp', 'out/.a.tmp', 'out/.git/x.tmp', 'out/cache/a', 'in/words'].filter((path) =>
        selects(patterns, path),
      ),
    ).toEqual([]);
    expect(selects(['out', '!**'], 'out/.a')).toBe(false);
    expect(selects(['!a'], 'b')).toBe(false);
  });

  it('opens the folders that it can reach, and no other', () => {
    const folderOf = (patterns: string[], path: string) => {
      let folder: ReturnType<Selection['root']> | null = new Selection(patterns).root();
      for (const name of path.split('/')) folder = folder?.enter(symbolsOf(Buffer.from(name))).folder ?? null;
      return folder !== null;
    };
    expect(folderOf(['out/a'], 'out')).toBe(true);
    expect(folderOf(['out/a'], 'out/a')).toBe(true);
    expect(folderOf(['out/*'], 'out/sub')).toBe(false);
    expect(folderOf(['out/a'], 'many')).toBe(false);
    expect(folderOf(['**/x'], '.git')).toBe(false);
    expect(folderOf(['out', '!out/cache'], 'out/cache')).toBe(false);
    expect(folderOf(['out', '!out/cache/**'], 'out/cache')).toBe(false);
    expect(folderOf(['out', '!out/*.tmp'], 'out/a.tmp')).toBe(true);
  });

  it.each([
    '',
    '!',
    '!!a',
    '/etc/passwd',
    'a//b',
    './a',
    'a/../b',
    '\\.\\./a',
    '{1..1000000}',
    'a{b,c}',
    '@(a|b)',
    '+(a)',
    'a?(b)',
    '!(a)',
    'a[',
    'a[]',
    'a[z-a]',
    'a[[:alpha:]]',
    'a[/]',
    'a\\',
    'a\\n',
    'a\\x0',
    'a\\x00',
    'a\\/b',
    `${'?'.repeat(256)}`,
    `${'é'.repeat(128)}/a`,
    `${'a/'.repeat(300)}a`,
    '\ud800',
  ])('is not %j, which no name can match or other tools read otherwise', (text) => {
    expect(patternProblem(text)).toMatch(/^expected /);
    expect(TaskSpec.safeParse({ image: 'i', command: ['true'], outputs: ['a', text] }).success).toBe(false);
  });

  it('does not stand alone where it excludes', () => {
    const outputsOf = (outputs: string[]) => TaskSpec.safeParse({ image: 'i', command: ['true'], outputs }).success;
    expect(outputsOf(['!out/**/*.tmp'])).toBe(false);
    expect(outputsOf(['!out/**/*.tmp', 'out'])).toBe(true);
  });

  it.each<[string, string, string]>([
    ['nested repetitions', 'out/(a+)+b', `out/${'a'.repeat(45)}`],
    ['many stars', `${'*a'.repeat(12)}*b`, 'a'.repeat(200)],
    ['as many stars as fit', `${'*a'.repeat(250)}*b`, 'a'.repeat(255)],
    ['many deep parts', `${'**/a/'.repeat(80)}b`, `${'a/'.repeat(500)}c`],
    ['deep parts and stars', `${'**/*a*a*/'.repeat(50)}b`, `${`${'a'.repeat(250)}/`.repeat(4)}c`],
  ])('is matched in no time: %s', (_, pattern, path) => {
    const begun = performance.now();
    expect(selects([pattern], path)).toBe(false);
    expect(performance.now() - begun).toBeLessThan(500);
  });
});

const part = fc.oneof(fc.constantFrom('*', '**', 'a', 'b', '?', '[ab]', '[!a]', '.', 'a*', '*a*b', '.*', 'aa'));
const somePattern = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
const someName = fc.string({ unit: fc.constantFrom('a', 'b', '.'), minLength: 1, maxLength: 4 });
const somePath = fc.array(someName, { minLength: 1, maxLength: 4 }).map((names) => names.join('/'));

describe('variants that were searched for', () => {
  /** The rules once more, as a regular expression: what they say of files, without folders that are meant whole. */
  const asRegExp = (pattern: string): RegExp => {
    const name = (text: string): string => {
      const body = text.replaceAll(
        /\[!|[*?.]/g,
        (found) => ({ '*': '[^/]*', '?': '[^/]', '.': '\\.', '[!': '[^/' })[found] ?? found,
      );
      return text.startsWith('.') ? body : `(?!\\.)${body}`;
    };
    const parts = pattern.split('/');
    const texts = parts.map((one, index) => {
      const last = index === parts.length - 1;
      if (one === '**') return last ? '(?!\\.)[^/]+(/(?!\\.)[^/]+)*' : '((?!\\.)[^/]+/)*';
      return `${name(one)}${last ? '' : '/'}`;
    });
    const literal = !/[*?[]/.test(parts.at(-1) ?? '');
    return new RegExp(`^${texts.join('')}${literal ? '(/.*)?' : ''}$`);
  };

  it('agree with a regular expression', () => {
    fc.assert(
      fc.property(somePattern, somePath, (pattern, path) => {
        if (patternProblem(pattern) !== null) return;
        expect([pattern, path, selects([pattern], path)]).toEqual([pattern, path, asRegExp(pattern).test(path)]);
      }),
      { numRuns: 20_000 },
    );
  });

  it('end soon: any pattern that is accepted, on any path', () => {
    const symbol = fc.constantFrom('*', '?', 'a', 'b', '/', '**/', '[a-b]', '\\*', '!', '.', '(', '+', ')');
    const text = fc.array(symbol, { minLength: 1, maxLength: 200 }).map((list) => list.join(''));
    const path = fc
      .array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 4 })
      .map((list) => list.map((n) => 'a'.repeat(n)).join('/'));
    fc.assert(
      fc.property(fc.array(text, { minLength: 1, maxLength: 100 }), path, (patterns, file) => {
        const begun = performance.now();
        new Selection(patterns.filter((one) => patternProblem(one) === null)).match(file);
        expect(performance.now() - begun).toBeLessThan(500);
      }),
      { numRuns: 200 },
    );
  });

  it('name a file by its escaped name, whatever its bytes', () => {
    const bytes = fc
      .uint8Array({ minLength: 1, maxLength: 40 })
      .filter((name) => !name.includes(0) && !name.includes(0x2f) && !/^\.\.?$/.test(Buffer.from(name).toString('latin1')));
    fc.assert(
      fc.property(bytes, (name) => {
        const text = escapeName(name);
        const pattern = text.replaceAll(/[*?[\]!{}]/g, (character) => `\\${character}`).replaceAll(/([+@])\(/g, '$1\\(');
        expect([pattern, patternProblem(pattern)]).toEqual([pattern, null]);
        expect(selects([pattern], text)).toBe(true);
        expect(selects([pattern], escapeName(Uint8Array.from([...name, 0xff])))).toBe(false);
        expect(unescapeName(text)).not.toBeNull();
      }),
      { numRuns: 3000 },
    );
  });
});
