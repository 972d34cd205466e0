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

/** What signed URLs need, of an API process too. */
export type SigningDeps = Pick<LedgerDeps, 'ledger' | 'signing' | 'clock'>;

export type Transaction = Prisma.TransactionClient;

export interface TransactionLimits {
  /** How long (ms) a transaction may wait for a connection of the pool. */
  maxWait: number;
  /** How long (ms) it may take from its first statement to its commit. */
  timeout: number;
}

/**
 * Of an activity's transaction: the wait for a connection and the transaction itself are together below the ten seconds
 * after which a step is retried (workflows/durable/timeouts.ts). An abandoned attempt must not take effect after its
 * successor.
 */
export const stepLimits: TransactionLimits = { maxWait: 4500, timeout: 5000 };

/** Of an API request's transaction: equal requests wait for each other's commit (ledger/idempotency.ts). */
export const requestLimits: TransactionLimits = { maxWait: 20_000, timeout: 30_000 };

/** Runs one transaction; a constraint of the ledger that refuses is thrown as the BerthError that it stands for. */
export async function inTransaction<T>(
  ledger: Ledger,
  work: (tx: Transaction) => Promise<T>,
  limits: TransactionLimits = stepLimits,
): Promise<T> {
  try {
    return await ledger.$transaction(work, limits);
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
}

/** RFC 3339, of milliseconds since 1970. */
export const isoOf = (ms: number): string => new Date(ms).toISOString();

export const isoNow = ({ clock }: LedgerDeps): string => isoOf(clock());
