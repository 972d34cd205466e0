import { releaseExpiredHolds } from '../../ledger/balance/holds.ts';
import { removeOldDecisions } from '../../ledger/balance/read-decisions.ts';
import type { Ledger } from '../../ledger/client.ts';
import { rollUpLoads } from '../../ledger/load/roll-up.ts';
import type { Logger } from '../../model/log.ts';
import { type Repeating, startRepeating } from '../repeat.ts';

const intervalMs = 60_000;

interface Deps {
  ledger: Ledger;
  log: Logger;
  /** ms since 1970, by the ledger's clock */
  clock: () => number;
}

/**
 * Makes minutes and hours of samples, and removes what is kept no longer: loads, decisions of the balancer, and offers of hosts that
 * nothing has taken. Each minute, until it is stopped.
 */
export function startKeepingLoads({ ledger, log, clock }: Deps): Repeating {
  return startRepeating({
    step: async () => {
      await releaseExpiredHolds(ledger, clock());
      await removeOldDecisions(ledger, clock());
      return rollUpLoads(ledger, clock());
    },
    intervalMs,
    log,
    level: 'warn',
    failure: 'loads were not made into minutes and hours, or old decisions not removed; the next round does it',
  });
}
