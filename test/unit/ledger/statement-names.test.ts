import { expect, test } from 'vitest';
import { statementNames } from '../../../ledger/statement-names.ts';

const thrice = (names: ReturnType<typeof statementNames>, sql: string) => [1, 2, 3].map(() => names({ sql })).at(-1);

test('a text that comes again is named, each by its own name, which it keeps', () => {
  const names = statementNames();
  expect([names({ sql: 'SELECT 1' }), names({ sql: 'SELECT 1' })]).toEqual(['', '']);
  const first = names({ sql: 'SELECT 1' });
  expect(first).not.toBe('');
  expect(thrice(names, 'SELECT 2')).not.toBe(first);
  expect(names({ sql: 'SELECT 1' })).toBe(first);
});

test('what begins or ends a transaction, or returns whatever columns a table has, is not named', () => {
  const names = statementNames();
  for (const sql of [
    'BEGIN',
    'COMMIT',
    'SELECT * FROM "Drain"',
    'SELECT v.*, 1 FROM "Vm" v',
    'SELECT 1, v.* FROM "Vm" v',
    'DELETE FROM "Vm" RETURNING *',
  ])
    expect(thrice(names, sql), sql).toBe('');
  expect(thrice(names, 'SELECT count(*) FROM "Vm"')).not.toBe('');
});

test('texts that vary for ever take neither names nor memory', () => {
  const names = statementNames();
  for (let i = 0; i < 10_000; i += 1) expect(names({ sql: `SELECT ${i}` })).toBe('');
  const named = Array.from({ length: 1000 }, (_, i) => thrice(names, `SELECT 'again', ${i}`)).filter((name) => name !== '');
  expect(named).toHaveLength(256);
});
