import fc from 'fast-check';
import { expect, it } from 'vitest';
import { escapeName } from '../../../../../model/outputs/names.ts';
import { Selection } from '../../../../../model/outputs/patterns.ts';
import { isFull } from '../../../../tier.ts';
import { contentOf, listOf, newDataDisk, pathsOf } from './data-disk.ts';

/** Names of any bytes but those that no name has; few enough that they meet. */
const name = fc
  .array(fc.constantFrom(0x61, 0x62, 0x2e, 0x5c, 0x5b, 0x0a, 0x20, 0x7f, 0xc3, 0xa9, 0xff, 0xfe), { minLength: 1, maxLength: 4 })
  .map((bytes) => Buffer.from(bytes))
  .filter((bytes) => !/^\.{1,2}$/.test(bytes.toString('latin1')));
const tree = fc.array(fc.tuple(fc.array(name, { maxLength: 3 }), name), { minLength: 1, maxLength: 20 });
const pattern = fc.constantFrom(
  '*',
  '**',
  'a',
  'a/*',
  '*/*',
  '**/b*',
  '!**/*b',
  '!a',
  '.*',
  '**/.*',
  '*/**',
  '?',
  '[ab]*',
  '*\\xff*',
  '\\xff',
  'a/',
  '**/a/',
);

const join = (...parts: Buffer[]): Buffer =>
  Buffer.concat(parts.flatMap((part, index) => (index === 0 ? [part] : [Buffer.from('/'), part])));

/** The files of a tree, less those whose path is a folder of another or has one as a folder. */
function filesOf(entries: [Buffer[], Buffer][]): Map<string, { bytes: Buffer; escaped: string }> {
  const files = new Map<string, { bytes: Buffer; escaped: string }>();
  const folders = new Set<string>();
  for (const [above, last] of entries) {
    const names = [...above, last];
    const prefixes = names.map((_, index) => join(...names.slice(0, index + 1)).toString('latin1'));
    const path = prefixes.pop()!;
    if (folders.has(path) || prefixes.some((prefix) => files.has(prefix))) continue;
    for (const prefix of prefixes) folders.add(prefix);
    files.set(path, { bytes: join(...names), escaped: names.map(escapeName).join('/') });
  }
  return files;
}

it('of any tree the files are listed that the patterns select, each with its content', async () => {
  const property = fc.asyncProperty(tree, fc.array(pattern, { minLength: 1, maxLength: 4 }), async (entries, patterns) => {
    const files = filesOf(entries);
    const disk = newDataDisk();
    try {
      for (const { bytes, escaped } of files.values()) disk.put(bytes, escaped);
      await disk.make(8);
      const selection = new Selection(patterns);
      const expected = [...files.values()].map(({ escaped }) => escaped).filter((path) => selection.match(path).length > 0);
      const listing = listOf(disk, patterns);
      expect(pathsOf(listing)).toEqual(expected.sort());
      for (const path of expected) expect((await contentOf(disk, listing, path)).toString()).toBe(path);
      expect(listing.matched.sort()).toEqual([...new Set(expected.flatMap((path) => selection.match(path)))].sort());
      expect(listing.skipped.count).toBe(0);
    } finally {
      disk.remove();
    }
  });
  await fc.assert(property, { numRuns: isFull ? 150 : 8 });
});
