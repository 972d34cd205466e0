import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { filesBeneath, readText } from './source-files.ts';
import { readTables } from './tables.ts';

const folder = 'docs/decisions';
const files = filesBeneath(folder, '.md').filter((path) => basename(path) !== 'README.md');
const index = readText(`${folder}/README.md`);

/** The row that the index should have for a decision. */
function rowOf(path: string): string {
  const [heading = '', , dated = ''] = readText(path).split('\n');
  const [, number, title] = /^# (\d+)\. (.+)$/.exec(heading) ?? [];
  const [, status] = /^\d{4}-\d{2}-\d{2} · (.+)$/.exec(dated) ?? [];
  return `${number} | [${title}](${basename(path)}) | ${status}`;
}

const statusPattern = /^(accepted(; (amended by|amends) \d+(, \d+)*)*|superseded by \d+)$/;
const numberOf = (path: string): number => Number(basename(path).slice(0, 4));

describe('docs/decisions/README.md', () => {
  const rows = readTables(index, ['', 'decision', 'status']).map((cells) => cells.join(' | '));

  it('has each decision once, with its title and status', () => {
    expect([...rows].sort()).toEqual(files.map(rowOf).sort());
  });

  it('lists the numbers that are closed', () => {
    const listed = /Closed numbers.*?: ([\d, to]+)\./
      .exec(index)![1]!
      .split(', ')
      .flatMap((part) => {
        const [from, to = from] = part.split(' to ').map(Number);
        return Array.from({ length: to! - from! + 1 }, (_, offset) => from! + offset);
      });
    const numbers = files.map(numberOf);
    const unused = Array.from({ length: Math.max(...numbers) }, (_, at) => at + 1).filter((number) => !numbers.includes(number));
    expect(listed).toEqual(unused);
  });
});

describe('a decision', () => {
  const statuses = new Map(files.map((path) => [numberOf(path), rowOf(path).split(' | ')[2]!]));

  it('has a number of its own', () => {
    const numbers = files.map(numberOf);
    expect(numbers.filter((number, index) => numbers.indexOf(number) !== index)).toEqual([]);
  });

  it('has the number of its file, and a status', () => {
    for (const path of files) {
      expect(rowOf(path)).toMatch(new RegExp(`^${numberOf(path)} \\| `));
      expect(statuses.get(numberOf(path))).toMatch(statusPattern);
    }
  });

  it('that amends another is named in that one', () => {
    for (const [number, status] of statuses)
      for (const other of [...(/amends ([\d, ]+)/.exec(status)?.[1] ?? '').matchAll(/\d+/g)].map(Number))
        expect(`${other} ${statuses.get(other)}`).toMatch(new RegExp(`amended by .*\\b${number}\\b`));
  });

  it('that is referred to by its number exists', () => {
    const documents = [...filesBeneath('docs', '.md'), 'README.md'];
    const missing = documents.flatMap((path) =>
      [...readText(path).matchAll(/decisions? (\d+)\b/g)]
        .filter(([, number]) => !statuses.has(Number(number)))
        .map(([text]) => `${text} in ${path}`),
    );
    expect(missing).toEqual([]);
  });
});
