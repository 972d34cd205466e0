import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { filesBeneath, productFolders, readText } from './source-files.ts';
import { readTables } from './tables.ts';

/** Documents that name identifiers that the code no longer has. */
const historical = new Set(['glossary.md', 'CHANGELOG.md']);
const documents = ['README.md', 'CONTRIBUTING.md', ...filesBeneath('docs', '.md')].filter(
  (path) => !historical.has(basename(path)),
);

const code = [
  ...[...productFolders, 'infra', 'test'].flatMap((folder) => filesBeneath(folder, '.ts')),
  ...filesBeneath('prisma', '.prisma'),
  ...filesBeneath('prisma', '.sql'),
  ...filesBeneath('infra', '.c'),
  'package.json',
  'biome.json',
]
  .map(readText)
  .join('\n');
const words = new Set(code.match(/\w+/g));

const retired = readTables(readText('docs/glossary.md'), ['term', 'meaning', 'where', 'retired names']).flatMap((row) =>
  [...row[3]!.matchAll(/`([^`]+)`/g)].map((match) => match[1]!),
);

describe.each(documents)('%s', (document) => {
  const quoted = [...readText(document).matchAll(/`(\w+)(?:\(\))?`/g)].map((match) => match[1]!);

  it('names identifiers that are in the code', () => {
    const camelCase = quoted.filter((name) => /^[a-z]+[A-Z]/.test(name));
    expect(camelCase.filter((name) => !words.has(name))).toEqual([]);
  });

  it('has no retired name', () => {
    expect(quoted.filter((name) => retired.includes(name))).toEqual([]);
  });
});
