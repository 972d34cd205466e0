import { execFileSync } from 'node:child_process';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { buildCommand } from '../../../ledger/images/build-script.ts';
import type { ImageId } from '../../../model/ids.ts';
import { ImageRecipe, type ResolvedRecipe, recipeDigest } from '../../../model/image.ts';

const plain: ResolvedRecipe = {
  base: { kind: 'image', image: 'image_a' as ImageId, digest: 'd' },
  packages: ['a', 'b'],
  files: [
    { path: '/a', mode: '0644', file: 'file_1', sha256: '1', sizeBytes: 1 },
    { path: '/b', mode: '0755', file: 'file_2', sha256: '2', sizeBytes: 2 },
  ],
  commands: ['one', 'two'],
  env: { X: '1', Y: '2' },
  cloudInit: false,
  sizeMiB: 100,
  resources: { vcpus: 1, memoryMiB: 512 },
  timeoutS: 60,
};
const digest = (more: Partial<ResolvedRecipe> = {}, owner = 'alice') => recipeDigest(owner, { ...plain, ...more });

describe('the digest of a recipe', () => {
  it('does not depend on the order of unordered parts, nor on the resources of the build VM', () => {
    const { files, env } = plain;
    expect(digest({ packages: ['b', 'a', 'b'] })).toBe(digest());
    expect(digest({ files: files.toReversed() })).toBe(digest());
    expect(digest({ env: Object.fromEntries(Object.entries(env).toReversed()) })).toBe(digest());
    expect(digest({ resources: { vcpus: 4, memoryMiB: 4096 }, timeoutS: 9 })).toBe(digest());
    expect(digest({ files: files.map((file) => ({ ...file, file: 'file_again' })) })).toBe(digest());
    expect(digest()).toMatch(/^[0-9a-f]{32}$/);
  });

  it('differs for everything that produces another image, and for another owner', () => {
    const { files, base } = plain;
    const all = [
      digest(),
      digest({}, 'bob'),
      digest({ base: { ...base, digest: 'e' } as ResolvedRecipe['base'] }),
      digest({ base: { kind: 'suite', suite: 'bookworm', image: 'image_a' as ImageId, digest: 'd' } }),
      digest({ packages: ['a'] }),
      digest({ files: files.slice(1) }),
      digest({ files: [{ ...files[0]!, mode: '0600' }, files[1]!] }),
      digest({ files: [{ ...files[0]!, sha256: '9' }, files[1]!] }),
      digest({ commands: ['two', 'one'] }),
      digest({ commands: ['one two'] }),
      digest({ env: { X: '1', Y: '3' } }),
      digest({ sizeMiB: 101 }),
    ];
    expect(new Set(all).size).toBe(all.length);
  });

  it('differs for two recipes whose concatenated words are the same', () => {
    const words = fc.array(fc.string({ maxLength: 4 }), { maxLength: 4 });
    fc.assert(
      fc.property(words, words, (one, other) => {
        expect(digest({ commands: one }) === digest({ commands: other })).toBe(JSON.stringify(one) === JSON.stringify(other));
      }),
    );
  });
});

describe('the script of a build', () => {
  it('is valid shell, and contains nothing of a recipe', () => {
    const evil = "'; touch /owned; '";
    const recipe = { ...plain, commands: [evil], packages: ['a-a'] };
    for (const base of [plain.base, { kind: 'suite', suite: 'bookworm', image: 'image_a' as ImageId, digest: 'd' }] as const) {
      const [shell, flag, script, name, ...words] = buildCommand({ ...recipe, base }, 50);
      expect([shell, flag, name]).toEqual(['/bin/sh', '-c', 'berth-build']);
      expect(script).not.toContain('owned');
      expect(words).toContain(evil);
      execFileSync('sh', ['-n'], { input: script });
    }
  });

  it('grows the root file system where the disk is larger than that of the base, and only there', () => {
    expect(buildCommand(plain, 50)[4]).toBe('1');
    expect(buildCommand(plain, 100)[4]).toBe('0');
  });
});

describe('the content of a recipe', () => {
  const valid = (more: object) => ImageRecipe.safeParse({ name: 'x', base: { image: 'debian-12' }, ...more }).success;

  it('of packages has only Debian package names, and nothing that apt-get would take for an option', () => {
    for (const name of ['ffmpeg', 'g++', 'libc6:amd64', 'nano=7.2-1', 'libstdc++6'])
      expect([name, valid({ packages: [name] })]).toEqual([name, true]);
    for (const name of ['-y', '--allow', 'a b', 'A', 'x;y', 'x/../y', '', 'a\n', './x.deb'])
      expect([name, valid({ packages: [name] })]).toEqual([name, false]);
  });

  it('is bounded everywhere', () => {
    expect(valid({ commands: Array(101).fill('x') })).toBe(false);
    expect(valid({ commands: ['x'.repeat(64 * 1024)] })).toBe(false);
    expect(valid({ packages: Array(501).fill('aa') })).toBe(false);
    expect(valid({ sizeMiB: 65_537 })).toBe(false);
    expect(valid({ timeoutS: 6 * 3600 + 1 })).toBe(false);
    expect(valid({ env: { 'a-b': '1' } })).toBe(false);
  });
});
