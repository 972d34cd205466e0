import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { drift } from '../../prisma/drift.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, withDatabase } from '../services/postgres-server.ts';

const server = process.env.DATABASE_URL ?? '';
let name: string;
let url: string;

beforeEach(async () => {
  name = `berth_migrate_${randomUUID().replaceAll('-', '')}`;
  await query(server, `CREATE DATABASE ${name}`);
  url = withDatabase(server, name);
});
afterEach(() => query(server, `DROP DATABASE ${name} WITH (FORCE)`));

it('brings an empty database to the schema, and does nothing the second time', async () => {
  expect(await applyMigrations(url)).toContain('20261121000000_init');
  expect(await applyMigrations(url)).toEqual([]);
});

it('lets several processes start at once', async () => {
  const applied = await Promise.all(Array.from({ length: 5 }, () => applyMigrations(url)));
  expect(applied.filter((names) => names.length > 0)).toHaveLength(1);
});

it('leads to schema.prisma', async () => {
  await applyMigrations(url);
  expect(await drift(url)).toBe('');
  await query(
    url,
    'ALTER TABLE "Owner" DROP COLUMN "maxQueued"; ALTER TYPE "FileState" ADD VALUE \'lost\'; DROP INDEX "Task_state_createdAt_id_idx"',
  );
  const script = await drift(url);
  expect(script).toContain('ADD COLUMN     "maxQueued"');
  expect(script).toContain('"Task_state_createdAt_id_idx"');
  expect(script).toContain('"FileState"');
});

it('refuses a database of a newer version', async () => {
  await applyMigrations(url);
  await query(
    url,
    `INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at) VALUES ('x', 'x', '29990101000000_later', now())`,
  );
  await expect(applyMigrations(url)).rejects.toThrow(/29990101000000_later, which this version of Berth does not know/);
});

it('refuses a database whose migration has another text', async () => {
  await applyMigrations(url);
  await query(url, `UPDATE _prisma_migrations SET checksum = 'another'`);
  await expect(applyMigrations(url)).rejects.toThrow(/is not the one that was applied/);
});

async function sql(text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

const recorded = () =>
  sql(`SELECT migration_name AS name, finished_at IS NOT NULL AS finished, rolled_back_at IS NOT NULL AS "rolledBack"
       FROM _prisma_migrations ORDER BY started_at`);

it('applies a migration completely or not at all, and continues after a failed one', async () => {
  await sql("CREATE FUNCTION berth_keep_event() RETURNS int LANGUAGE sql AS 'SELECT 1'");
  for (let attempt = 0; attempt < 2; attempt += 1) await expect(applyMigrations(url)).rejects.toThrow(/berth_keep_event/);
  expect(await sql(`SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)).toEqual([{ tablename: '_prisma_migrations' }]);
  await sql('DROP FUNCTION berth_keep_event');
  expect(await applyMigrations(url)).toContain('20261121000000_init');
  expect(await drift(url)).toBe('');
  expect((await recorded()).slice(0, 3).map(({ finished, rolledBack }) => [finished, rolledBack])).toEqual([
    [false, true],
    [false, true],
    [true, false],
  ]);
});

/** From now on, recording that a script has run fails as if the process had died; the script itself may record it. */
async function dieAfterTheScript(): Promise<void> {
  await sql("CREATE FUNCTION berth_keep_event() RETURNS int LANGUAGE sql AS 'SELECT 1'");
  await expect(applyMigrations(url)).rejects.toThrow(/berth_keep_event/);
  await sql('DROP FUNCTION berth_keep_event');
  await sql(`CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF current_query() NOT LIKE '%CREATE TABLE%' AND NEW.rolled_back_at IS NULL THEN RAISE 'killed'; END IF; RETURN NEW; END $$`);
  await sql('CREATE TRIGGER die BEFORE UPDATE ON _prisma_migrations FOR EACH ROW EXECUTE FUNCTION die()');
}

it('continues after a process that was killed just after its script had run', async () => {
  await dieAfterTheScript();
  await expect(applyMigrations(url)).rejects.toThrow(/killed/);
  await sql('DROP FUNCTION die CASCADE');
  expect(await sql('SELECT 1 FROM "Event"')).toEqual([]);
  expect(await applyMigrations(url)).not.toContain('20261121000000_init');
  expect(await drift(url)).toBe('');
  expect((await recorded()).filter(({ name, finished }) => name === '20261121000000_init' && finished)).toHaveLength(1);
});

it('brings the events of a filled ledger into partitions: each keeps its number, and those without one get theirs', async () => {
  // The migration fails on it, and those before have been applied.
  await sql("CREATE FUNCTION berth_name_event() RETURNS int LANGUAGE sql AS 'SELECT 1'");
  await expect(applyMigrations(url)).rejects.toThrow(/berth_name_event/);
  const write = (from: number, to: number) =>
    sql(`INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
      SELECT 'e' || i, 't', 's', 'o', '2026-01-01T00:00:00Z'::timestamptz + i * interval '1 second', '{}' FROM generate_series(${from}, ${to}) i`);
  await write(1, 2000);
  await sql('SELECT berth_number_events(100000)');
  await write(2001, 2500);
  await sql('DROP FUNCTION berth_name_event');
  expect(await applyMigrations(url)).toContain('20261130070000_event_partitions');
  expect(await drift(url)).toBe('');
  await write(2501, 2600);
  await sql('SELECT berth_number_events(100000)');
  expect(await sql(`SELECT count(*)::int AS events, max(seq)::int AS last FROM "Event" WHERE id = 'e' || seq`)).toEqual([
    { events: 2600, last: 2600 },
  ]);
  expect(await sql('SELECT count(*)::int AS ids FROM "EventId"')).toEqual([{ ids: 2600 }]);
  // As old as the first event that is there.
  expect(await sql('SELECT "from"::int, until::int, "openedAt" FROM "EventPartition"')).toEqual([
    { from: 1, until: 102_501, openedAt: new Date('2026-01-01T00:00:01Z') },
  ]);
  await expect(write(1, 1)).rejects.toThrow(/EventId_pkey/);
});
