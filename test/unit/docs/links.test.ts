import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { filesBeneath, readText } from './source-files.ts';

const documents = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...filesBeneath('docs', '.md')];
const folders = 'activities api bench cli contracts docs drivers infra ledger model prisma scheduler test workers workflows';
/** A path from the top of the checkout, with an extension; globs and placeholders are none. */
const pathPattern = new RegExp(
  `(?<![\\w/.*<-])(?:${folders.replaceAll(' ', '|')})/[\\w./-]*\\w\\.(?:ts|md|c|sh|json|prisma|csv)\\b(?![*<])`,
  'g',
);

it.each(documents)('%s names files that exist', (document) => {
  const text = readText(document);
  const links = [...text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)].map((match) => join(dirname(document), match[1]!));
  const paths = text.match(pathPattern) ?? [];
  expect([...links, ...paths].filter((path) => !existsSync(path))).toEqual([]);
});

it('finds paths and leaves globs alone', () => {
  expect('see model/errors.ts, docs/decisions/0001-x.md. and test/*/a.ts'.match(pathPattern)).toEqual([
    'model/errors.ts',
    'docs/decisions/0001-x.md',
  ]);
});
