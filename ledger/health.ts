import type { Ledger } from './client.ts';

/** Resolves when PostgreSQL answers a query. */
export async function readHealth(ledger: Ledger): Promise<void> {
  await ledger.$queryRaw`SELECT 1`;
}
