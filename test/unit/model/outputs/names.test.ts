import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { escapeName, isOutputPath, unescapeName } from '../../../../model/outputs/names.ts';

const escaped = (bytes: number[] | string): string => escapeName(Buffer.from(bytes as string));

describe('the text of a name', () => {
  it.each<[string, number[] | string, string]>([
    ['what is printable', 'résumé 日本 👩‍🚀 [1]*?!{}', 'résumé 日本 👩‍🚀 [1]*?!{}'],
    ['a byte that is no UTF-8', [0x61, 0xff], 'a\\xff'],
    ['another one', [0x61, 0xfe], 'a\\xfe'],
    ['a backslash', 'a\\xff', 'a\\x5cxff'],
    ['a newline', 'a\nb', 'a\\x0ab'],
    ['an escape of the terminal, 8 bits', [0x9b, 0xc2, 0x9b], '\\x9b\\xc2\\x9b'],
    ['a reversed line', 'a\u202etxt.exe', 'a\\xe2\\x80\\xaetxt.exe'],
    ['a slash', 'a/b', 'a\\x2fb'],
    ['a code point in too many bytes', [0xc0, 0xae, 0xe0, 0x80, 0xaf], '\\xc0\\xae\\xe0\\x80\\xaf'],
    ['a surrogate', [0xed, 0xa0, 0x80], '\\xed\\xa0\\x80'],
    ['a character that is cut off', [0xe2, 0x82], '\\xe2\\x82'],
  ])('has %s', (_, bytes, text) => {
    expect(escaped(bytes)).toBe(text);
  });

  it('is one-to-one: the bytes come back, and no other text stands for them', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 30 }),
      fc
        .array(fc.constantFrom(0x5c, 0x78, 0x61, 0xc3, 0xa9, 0xe2, 0x80, 0xae, 0x0a, 0xf0, 0x9f), { maxLength: 12 })
        .map((list) => Uint8Array.from(list)),
    );
    fc.assert(
      fc.property(bytes, (name) => {
        const text = escapeName(name);
        expect(Buffer.from(unescapeName(text) ?? [0])).toEqual(Buffer.from(name));
        // biome-ignore lint/suspicious/noControlCharactersInRegex: that there are none is the point
        expect(text).not.toMatch(/[\u0000-\u001f\u007f-\u009f/]/);
      }),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('\\', 'x', '5', 'c', 'a', 'é', 'f', '\n', '\u202e') }), (text) => {
        const name = unescapeName(text);
        if (name !== null) expect(escapeName(name)).toBe(text);
      }),
      { numRuns: 3000 },
    );
  });

  it.each(['\\x61', '\\xC3', '\\', '\\n', 'a\nb', '\\xc3\\xa9', '\ud800'])('is not %j', (text) => {
    expect(unescapeName(text)).toBeNull();
  });
});

describe('the path of an output', () => {
  it.each(['a', 'out/a\\xff', 'a\\x5cb', `${'n'.repeat(255)}/b`, '...'])('may be %j', (path) => {
    expect(isOutputPath(path)).toBe(true);
  });
  it.each(['', '/a', 'a/', 'a//b', '../a', 'a/./b', 'a\\b', 'a\nb', 'n'.repeat(256), `${'a/'.repeat(512)}a`])(
    'is not %j',
    (path) => {
      expect(isOutputPath(path)).toBe(false);
    },
  );
});
