import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { workflowType } from '../../../model/temporal.ts';
import { readText } from './source-files.ts';
import { readTables } from './tables.ts';

const text = readText('docs/architecture.md');
const walks = text
  .slice(text.indexOf('\n## Walks\n'))
  .split('\n### ')
  .slice(1)
  .map((walk) => ({ name: walk.split('\n')[0]!, hops: walk.match(/^\d+\. .*$/gm) ?? [] }));

describe('docs/architecture.md', () => {
  it('has the five walks, of at most eight hops', () => {
    expect(walks.map(({ name }) => name)).toEqual([
      'A POST of a task',
      "A migration's commit",
      "A reservation's start",
      "A drain's next move",
      'An upload',
    ]);
    for (const { name, hops } of walks) expect([name, hops.length >= 3 && hops.length <= 8]).toEqual([name, true]);
  });

  it('begins each hop with a file that exists', () => {
    const missing = walks.flatMap(({ hops }) => hops).filter((hop) => !existsSync(/^\d+\. (\S+\.ts): /.exec(hop)?.[1] ?? ''));
    expect(missing).toEqual([]);
  });

  it('names functions that are in a file of their hop', () => {
    const missing = walks
      .flatMap(({ hops }) => hops)
      .filter((hop) => {
        const files = (hop.match(/[\w/-]+\.ts/g) ?? []).map(readText).join('\n');
        const names = [...hop.matchAll(/`([a-z]+[A-Z]\w*)`/g)].map((match) => match[1]!);
        return !names.every((name) => files.includes(name));
      });
    expect(missing).toEqual([]);
  });

  it('has each workflow type with its file', () => {
    const rows = readTables(text, ['type', 'workflow id', 'file', 'started by']);
    const exported = [...readText('workflows/index.ts').matchAll(/export \{ (\w+) \} from '\.\/(.+)'/g)];
    expect(rows.map(([type, , file]) => `${type} ${file}`).sort()).toEqual(
      exported.map(([, type, file]) => `\`${type}\` workflows/${file}`).sort(),
    );
    expect(rows.map(([type]) => type?.replaceAll('`', '')).sort()).toEqual(Object.values(workflowType).sort());
  });
});
