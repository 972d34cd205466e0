import { globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../../', import.meta.url));
const files = globSync('api/**/*.ts', { cwd: root });

/** The ledger names that the API may import: entry points by subject, and the translation of its errors. */
const entry = /^(accept|change|read|find)[A-Z]\w*$|^ledgerError$/;

/** The names that a module imports as values from ledger/. */
function ledgerValues(source: string): string[] {
  return [...source.matchAll(/^import \{([^}]*)\} from '[^']*\/ledger\/[^']*';$/gm)]
    .flatMap(([, names = '']) => names.split(','))
    .map((name) => name.trim())
    .filter((name) => name !== '' && !name.startsWith('type '));
}

describe('api/', () => {
  test('has files', () => expect(files.length).toBeGreaterThan(20));

  test.each(files)('%s runs no query and opens no transaction', async (file) => {
    const source = await readFile(`${root}/${file}`, 'utf8');
    expect(source).not.toMatch(/\$(transaction|queryRaw|executeRaw)/);
    expect(source).not.toMatch(/\b(ledger|tx)\.\w+\.(find|create|update|delete|upsert|count|groupBy|aggregate)/);
    expect(source).not.toMatch(/\bTransaction\b/);
    expect(source).not.toMatch(/from '[^']*\/(generated|prisma)\//);
    expect(ledgerValues(source).filter((name) => !entry.test(name))).toEqual([]);
  });
});
