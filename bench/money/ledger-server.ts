import pg from 'pg';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, startPostgresServer, withDatabase } from '../../test/services/postgres-server.ts';

/** A ledger on a server of its own, which flushes to the disk as a site's does, and the same database without Prisma. */
interface Opened {
  ledger: Ledger;
  pool: pg.Pool;
}

/** @param name of the database @param clients so many connections of each kind */
export async function withLedgerServer(name: string, clients: number, act: (opened: Opened) => Promise<void>): Promise<void> {
  const server = await startPostgresServer({ durable: true });
  try {
    await query(server.url, `CREATE DATABASE ${name}`);
    const url = withDatabase(server.url, name);
    await applyMigrations(url);
    const ledger = openLedger(url, clients);
    const pool = new pg.Pool({ connectionString: url, max: clients });
    // Stopping the server closes what is idle.
    pool.on('error', () => undefined);
    try {
      await act({ ledger, pool });
    } finally {
      await pool.end();
      await ledger.$disconnect();
    }
  } finally {
    await server.stop();
  }
}

/** How many clients act at a time, each of them one after the other, until nothing is left. */
export async function inTurns<T>(clients: number, items: readonly T[], act: (item: T) => Promise<unknown>): Promise<void> {
  const rest = items.values();
  const client = async (): Promise<void> => {
    for (const item of rest) await act(item);
  };
  await Promise.all(Array.from({ length: clients }, client));
}
