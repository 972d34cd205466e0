import { startPostgresServer } from './postgres-server.ts';

/**
 * Global set-up of a vitest project: a PostgreSQL for all of its files, which get its URL as DATABASE_URL. See postgres.ts.
 */
export default async function withPostgres(): Promise<() => Promise<void>> {
  const server = await startPostgresServer();
  process.env.DATABASE_URL = server.url;
  return server.stop;
}
