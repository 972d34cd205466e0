import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '../generated/prisma/client.ts';

export type Ledger = PrismaClient;

/** @param connections size of the pool; one process of each kind shares the server's 100. */
export function openLedger(databaseUrl: string, connections = 10): Ledger {
  return new PrismaClient({ adapter: new PrismaPg({ connectionString: databaseUrl, max: connections }) });
}
