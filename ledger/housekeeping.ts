import type { LedgerDeps } from './transaction.ts';

/** How many rows one round of housekeeping handles; the next round takes the rest. */
export const batch = 100;

/** The moment so many seconds ago, by the ledger's clock. */
export const secondsAgo = ({ clock }: LedgerDeps, seconds: number): Date => new Date(clock() - seconds * 1000);
