import type { Prisma } from '../generated/prisma/client.ts';
import type { readConfig } from '../model/config.ts';
import type { Ledger } from './client.ts';
import { ledgerError } from './ledger-error.ts';

type Configuration = ReturnType<typeof readConfig<'signing' | 'control'>>;

export interface LedgerDeps {
  ledger: Ledger;
  signing: Configuration['signing'];
  control: Configuration['control'];
  /** Milliseconds since 1970. */
  clock: () => number;
}

export type Transaction = Prisma.TransactionClient;

/**
 * Waiting for a connection and the transaction itself, together below the ten seconds after which a step is tried
 * again (workflows/durable/timeouts.ts): an attempt that was given up must not take effect after its successor.
 */
const limits = { maxWait: 4500, timeout: 5000 };

/** One transaction; what the ledger's own constraints refuse is thrown as the BerthError that it stands for. */
export async function inTransaction<T>(ledger: Ledger, work: (tx: Transaction) => Promise<T>): Promise<T> {
  try {
    return await ledger.$transaction(work, limits);
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
}

export function isoNow(deps: LedgerDeps): string {
  return new Date(deps.clock()).toISOString();
}
