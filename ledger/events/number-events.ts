import type { Ledger } from '../client.ts';

/** How many events one transaction numbers: some tenths of a second, for which readers of the newest ones wait. */
const batch = 10_000;

/**
 * Gives committed events their sequence numbers, in a transaction of its own. Each reader does so before it reads, and each
 * API process once a second, so that the first reader after a long time finds few. Killed, it has numbered none, or all of
 * its batch. @returns whether there may be more
 */
export async function numberEvents(ledger: Ledger): Promise<boolean> {
  const rows = await ledger.$queryRaw<{ numbered: number }[]>`SELECT berth_number_events(${batch}::int) AS numbered`;
  return rows[0]?.numbered === batch;
}

/** Numbers all that had committed when it was called. */
export async function numberAllEvents(ledger: Ledger): Promise<void> {
  while (await numberEvents(ledger));
}
