import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '../generated/prisma/client.ts';

export type Ledger = PrismaClient;

/** A process that was stopped in the middle of a transaction holds its locks this long; none of ours idles for that. */
const idleInTransactionMs = 5000;

/** @param connections size of the pool; one process of each kind shares the server's 100. */
export function openLedger(databaseUrl: string, connections = 10): Ledger {
  const pool = { connectionString: databaseUrl, max: connections, idle_in_transaction_session_timeout: idleInTransactionMs };
  return new PrismaClient({ adapter: new PrismaPg(pool) });
}
