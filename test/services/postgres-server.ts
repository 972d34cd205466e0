import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { run } from '../../drivers/host/run-process.ts';
import { asNobody, postgresPrograms } from '../../infra/site/postgres.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { freePort, startService, untilReady } from './child.ts';

/** The database with all migrations and no rows, from which the database of each test file is copied. */
export const templateName = 'berth_template';

export interface RunningPostgres {
  /** The URL of the maintenance database, from which tests copy the template. */
  url: string;
  stop(): Promise<void>;
}

/**
 * Starts a PostgreSQL under the temporary folder, with the migrated template database. Takes about 2 s.
 * @param options `durable`: it flushes to the disk as a site's does; tests don't need that
 */
export async function startPostgresServer({ durable = false } = {}): Promise<RunningPostgres> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-test-postgres-'));
  try {
    const options = ['-D', folder, '-U', 'berth', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync'];
    await run([...asNobody, join(postgresPrograms(), 'initdb'), ...options], { deadlineMs: 60_000 });
    return await serve(folder, durable);
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function serve(folder: string, durable: boolean): Promise<RunningPostgres> {
  const port = await freePort();
  const settings = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: 300,
    // No data of a test run has to survive a power cut.
    ...(durable ? {} : { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }),
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const argv = [join(postgresPrograms(), 'postgres'), '-D', folder, '-p', String(port), ...options] as const;
  // SIGINT is PostgreSQL's fast shutdown: it doesn't wait for clients.
  const service = startService(argv, 'SIGINT', asNobody);
  const stop = async (): Promise<void> => {
    await service.stop();
    await rm(folder, { recursive: true, force: true });
  };
  const url = `postgresql://berth@127.0.0.1:${port}/postgres`;
  try {
    await untilReady(service, 'PostgreSQL', () => query(url, 'SELECT 1'));
    await query(url, `CREATE DATABASE ${templateName}`);
    await applyMigrations(withDatabase(url, templateName));
    return { url, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The same server's URL for another database. */
export function withDatabase(url: string, database: string): string {
  const other = new URL(url);
  other.pathname = `/${database}`;
  return other.href;
}

/** Runs one statement over a connection of its own. */
export async function query(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 });
  // The server may end a connection while it is being closed; the statement's own outcome is what counts.
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
