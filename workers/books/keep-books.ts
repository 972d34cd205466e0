import { markEntries } from '../../ledger/books/entry-marks.ts';
import { readBooksProof, readLastProof } from '../../ledger/books/proof.ts';
import { sumAccounts } from '../../ledger/books/sum-accounts.ts';
import type { Ledger } from '../../ledger/client.ts';
import type { Logger } from '../../model/log.ts';
import { type Repeating, startRepeating } from '../repeat.ts';

const intervalMs = 600_000;
const dayMs = 24 * 3_600_000;

interface Deps {
  ledger: Ledger;
  log: Logger;
  /** ms since 1970, by the ledger's clock */
  clock: () => number;
}

/**
 * Sums the accounts without a lower limit, marks the place of the last entry, and proves the books where the last proof is a day old. Several control workers may do
 * so at once: a proof only reads.
 */
export async function keepBooks({ ledger, log, clock }: Deps): Promise<void> {
  await sumAccounts(ledger);
  await markEntries(ledger, clock());
  const last = await readLastProof(ledger);
  if (last !== null && clock() - last.at.getTime() < dayMs) return;
  const { found, ...proof } = await readBooksProof(ledger, clock());
  if (proof.problems === 0) log.info(proof, 'the books were proven');
  else log.error({ ...proof, found }, 'the books are wrong; see docs/books.md');
}

/** Repeats keepBooks every ten minutes until it is stopped. */
export function startKeepingBooks(deps: Deps): Repeating {
  return startRepeating({
    step: async () => {
      await keepBooks(deps);
      return 'done';
    },
    intervalMs,
    log: deps.log,
    level: 'error',
    failure: 'the books could not be summed or proven; the next round does it',
  });
}
