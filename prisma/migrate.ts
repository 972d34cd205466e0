import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { wholeDatabase, withSchemaEngine } from './schema-engine.ts';

const folder = new URL('migrations/', import.meta.url);

/** How long one process waits for the migrations of another. */
const lockTimeoutMs = 120_000;

interface Migration {
  name: string;
  script: string;
  /** As Prisma records it: SHA-256 of the script, in hexadecimal. */
  checksum: string;
}

interface RecordedMigration {
  migration_name: string;
  checksum: string;
  finished: boolean;
}

async function readMigrations(): Promise<Migration[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  return Promise.all(
    names.sort().map(async (name) => {
      const script = await readFile(new URL(`${name}/migration.sql`, folder), 'utf8');
      return { name, script, checksum: createHash('sha256').update(script).digest('hex') };
    }),
  );
}

async function readRecorded(client: pg.Client): Promise<RecordedMigration[]> {
  const exists = await client.query<{ found: boolean }>("SELECT to_regclass('_prisma_migrations') IS NOT NULL AS found");
  if (!exists.rows[0]?.found) return [];
  const recorded = await client.query<RecordedMigration>(
    'SELECT migration_name, checksum, finished_at IS NOT NULL AS finished FROM _prisma_migrations WHERE rolled_back_at IS NULL',
  );
  return recorded.rows;
}

/** Returns the migrations that the database lacks. Throws when it has others than these. */
function pendingMigrations(migrations: Migration[], recorded: RecordedMigration[]): Migration[] {
  const known = new Map(migrations.map((migration) => [migration.name, migration]));
  for (const row of recorded) {
    const migration = known.get(row.migration_name);
    if (migration === undefined)
      throw new Error(
        `The database has the migration ${row.migration_name}, which this version of Berth does not know: it was written by a newer version. Start that version, or give DATABASE_URL another database.`,
      );
    if (row.checksum !== migration.checksum)
      throw new Error(
        `The migration ${row.migration_name} is not the one that was applied to this database: its text has changed since. Restore it, and put the change into a new migration.`,
      );
  }
  // A migration that another process is applying counts as missing; under the lock there is none.
  const done = new Set(recorded.filter((row) => row.finished).map((row) => row.migration_name));
  return migrations.filter((migration) => !done.has(migration.name));
}

/**
 * Repairs the records of a process that died or failed while it applied a migration. A script is one transaction that also
 * counts its step (see schema-engine.ts), so the record shows whether it took effect. The caller holds the lock.
 */
async function repairInterrupted(client: pg.Client): Promise<void> {
  if ((await readRecorded(client)).every((row) => row.finished)) return;
  const unfinished = 'finished_at IS NULL AND rolled_back_at IS NULL';
  await client.query(`UPDATE _prisma_migrations SET finished_at = now() WHERE ${unfinished} AND applied_steps_count > 0`);
  await client.query(`UPDATE _prisma_migrations SET rolled_back_at = now() WHERE ${unfinished}`);
}

async function applyWithEngine(databaseUrl: string, migrations: Migration[]): Promise<void> {
  const lockfile = { path: 'migration_lock.toml', content: await readFile(new URL('migration_lock.toml', folder), 'utf8') };
  const migrationDirectories = migrations.map(({ name, script }) => ({
    path: name,
    migrationFile: { path: 'migration.sql', content: { tag: 'ok' as const, value: script } },
  }));
  const migrationsList = { baseDir: fileURLToPath(folder), lockfile, shadowDbInitScript: '', migrationDirectories };
  await withSchemaEngine(databaseUrl, (engine) => engine.applyMigrations({ migrationsList, filters: wholeDatabase }));
}

/**
 * Applies this version's migrations with Prisma's own engine, and returns the names of those that it applied: none, after
 * one query, when there is nothing to do. Processes may call it concurrently, and may call it again after one died in it.
 * Throws an Error with what to do when the database has migrations that are unknown or were changed.
 */
export async function applyMigrations(databaseUrl: string): Promise<string[]> {
  const migrations = await readMigrations();
  const client = new pg.Client({ connectionString: databaseUrl });
  // A broken connection also rejects the query that uses it, which is handled there.
  client.on('error', () => undefined);
  await client.connect();
  try {
    if (pendingMigrations(migrations, await readRecorded(client)).length === 0) return [];
    await client.query(`SET lock_timeout = ${lockTimeoutMs}`);
    // 7305, 3: see the first migration. The session holds the lock, so it ends with this process at the latest.
    await client.query('SELECT pg_advisory_lock(7305, 3)');
    await repairInterrupted(client);
    const todo = pendingMigrations(migrations, await readRecorded(client));
    if (todo.length > 0) await applyWithEngine(databaseUrl, migrations);
    return todo.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}
