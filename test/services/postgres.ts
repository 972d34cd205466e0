import { randomUUID } from 'node:crypto';
import { query, templateName, withDatabase } from './postgres-server.ts';

/** A database for one test file: all migrations, no rows. */
export interface FreshDatabase {
  url: string;
  /** Ends the remaining connections, then drops it. */
  stop(): Promise<void>;
}

/**
 * For tests of the projects ledger, api, sagas and replay, once a file:
 *   let database: FreshDatabase;
 *   beforeAll(async () => { database = await startPostgres(); });
 *   afterAll(() => database.stop());
 * It is a copy of a migrated template on the project's own server and takes about 30 ms.
 */
export async function startPostgres(): Promise<FreshDatabase> {
  const server = process.env.DATABASE_URL;
  if (server === undefined)
    throw new Error('No DATABASE_URL: this vitest project has no globalSetup test/services/with-postgres.ts');
  const name = `berth_${randomUUID().replaceAll('-', '')}`;
  await query(server, `CREATE DATABASE ${name} TEMPLATE ${templateName}`);
  return { url: withDatabase(server, name), stop: () => query(server, `DROP DATABASE ${name} WITH (FORCE)`) };
}
