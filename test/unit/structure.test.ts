import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname } from 'node:path';
import { expect, it } from 'vitest';

/** A file has one subject; a longer one has two (STYLE, item 12). */
const maxLines = 400;
/** A reader finds a file by its folder's subject; migrations of the ledger are numbered, and not searched for by name. */
const maxFilesInFolder = 18;

const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.ts'], { encoding: 'utf8' })
  .split('\n')
  .filter((path) => path !== '' && !path.startsWith('test/'));
const lengthOf = (path: string): number => readFileSync(path, 'utf8').split('\n').length - 1;

it(`no file of the product is longer than ${maxLines} lines`, () => {
  expect(tracked.map((path) => ({ path, lines: lengthOf(path) })).filter(({ lines }) => lines > maxLines)).toEqual([]);
});

it(`no folder of the product holds more than ${maxFilesInFolder} files`, () => {
  const counts = new Map<string, number>();
  for (const path of tracked) counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  expect([...counts].filter(([, count]) => count > maxFilesInFolder)).toEqual([]);
});

it('Node removes the types of every file of the product, which is how its processes run', () => {
  const refused = tracked.flatMap((path) => {
    try {
      stripTypeScriptTypes(readFileSync(path, 'utf8'));
      return [];
    } catch (error) {
      return [`${path}: ${error instanceof Error ? error.message.split('\n')[0] : error}`];
    }
  });
  expect(refused).toEqual([]);
});
