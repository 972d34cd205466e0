import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { wholeDatabase, withSchemaEngine } from './schema-engine.ts';

const folder = new URL('migrations/', import.meta.url);

/** How long one start waits for another's migrations. */
const lockTimeoutMs = 120_000;

interface Migration {
  name: string;
  script: string;
  /** As Prisma records it: SHA-256 of the script, in hexadecimal. */
  checksum: string;
}

interface Recorded {
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

async function readRecorded(client: pg.Client): Promise<Recorded[]> {
  const exists = await client.query<{ found: boolean }>("SELECT to_regclass('_prisma_migrations') IS NOT NULL AS found");
  if (!exists.rows[0]?.found) return [];
  const recorded = await client.query<Recorded>(
    'SELECT migration_name, checksum, finished_at IS NOT NULL AS finished FROM _prisma_migrations WHERE rolled_back_at IS NULL',
  );
  return recorded.rows;
}

/** Throws when the database is not one that these migrations lead to; else says which of them it lacks. */
function missing(migrations: Migration[], recorded: Recorded[]): Migration[] {
  const known = new Map(migrations.map((migration) => [migration.name, migration]));
  for (const row of recorded) {
    const migration = known.get(row.migration_name);
    if (migration === undefined)
      throw new Error(
        `The database has the migration ${row.migration_name}, which this version of Berth does not know: it was written by a newer version. Start that version, or give DATABASE_URL another database.`,
      );
    if (!row.finished)
      throw new Error(
        `The migration ${row.migration_name} was begun on this database and did not finish. It is one transaction, so nothing of it is there: delete its row from _prisma_migrations, and start again.`,
      );
    if (row.checksum !== migration.checksum)
      throw new Error(
        `The migration ${row.migration_name} is not the one that was applied to this database: its text has changed since. Restore it, and put the change into a new migration.`,
      );
  }
  const done = new Set(recorded.map((row) => row.migration_name));
  return migrations.filter((migration) => !done.has(migration.name));
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
 * Brings the database to this version's schema with Prisma's own engine and returns the names of the migrations that
 * it applied: none, after one query, when there is nothing to do. Any number of processes may call it at once.
 * Throws an Error with what to do when the database has migrations that are unknown, changed or unfinished.
 */
export async function applyMigrations(databaseUrl: string): Promise<string[]> {
  const migrations = await readMigrations();
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    if (missing(migrations, await readRecorded(client)).length === 0) return [];
    await client.query(`SET lock_timeout = ${lockTimeoutMs}`);
    // 7305, 3: see the first migration. Held by this session, so it ends with this process at the latest.
    await client.query('SELECT pg_advisory_lock(7305, 3)');
    const todo = missing(migrations, await readRecorded(client));
    if (todo.length > 0) await applyWithEngine(databaseUrl, migrations);
    return todo.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}
