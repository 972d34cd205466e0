import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '../generated/prisma/client.ts';
import { statementNames } from './statement-names.ts';

export type Ledger = PrismaClient;

/** Time after which the server ends the transaction of a stopped process, and so its locks; no transaction of Berth idles that long. */
const idleInTransactionMs = 5000;

/** @param connections size of the pool; the processes of a site share the server's 100 connections. */
export function openLedger(databaseUrl: string, connections = 10): Ledger {
  const pool = { connectionString: databaseUrl, max: connections, idle_in_transaction_session_timeout: idleInTransactionMs };
  return new PrismaClient({ adapter: new PrismaPg(pool, { statementNameGenerator: statementNames() }) });
}
