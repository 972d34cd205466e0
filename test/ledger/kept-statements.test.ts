import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';

let database: FreshDatabase;
let ledger: Ledger;
beforeAll(async () => {
  database = await startPostgres();
  ledger = openLedger(database.url, 1);
});
afterAll(async () => {
  await ledger.$disconnect();
  await database.stop();
});

async function repeatedly(ask: () => Promise<unknown>): Promise<void> {
  for (let i = 0; i < 8; i += 1) await ask();
}

const kept = async (part: string) => {
  const rows = await ledger.$queryRaw<{ statement: string; plans: number }[]>`
    SELECT statement, (generic_plans + custom_plans)::int AS plans FROM pg_prepared_statements`;
  return rows.filter(({ statement }) => statement.includes(part) && !statement.includes('pg_prepared_statements'));
};

test('a connection keeps statements that repeat, in a transaction and outside of one', async () => {
  await repeatedly(() => ledger.$queryRaw`SELECT id AS "keptOutside" FROM "Host" WHERE id = ${'host1'}`);
  await repeatedly(() => ledger.$transaction((tx) => tx.$queryRaw`SELECT id AS "keptInside" FROM "Host" WHERE id = ${'host1'}`));
  await repeatedly(() => ledger.host.findMany({ where: { state: 'unknown' }, select: { address: true } }));
  for (const part of ['keptOutside', 'keptInside', '"public"."Host"']) {
    const [statement] = await kept(part);
    expect(statement?.plans, part).toBeGreaterThanOrEqual(5);
  }
});

test('a process goes on when an upgrade adds columns to tables that it reads', async () => {
  const ask = async () => {
    await ledger.$queryRaw`SELECT * FROM "Drain" WHERE id = ${'drain'} FOR UPDATE`;
    await ledger.$queryRaw`SELECT d.*, 1 AS one FROM "Drain" d WHERE id = ${'drain'}`;
    await ledger.drain.findMany({ where: { id: 'drain' } });
    await ledger.$queryRaw`INSERT INTO "Drain" SELECT * FROM "Drain" WHERE false RETURNING *`;
  };
  await repeatedly(ask);
  await ledger.$executeRawUnsafe('ALTER TABLE "Drain" ADD COLUMN "ofTheNextVersion" integer');
  await ask();
});
