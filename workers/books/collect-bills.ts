import type { Ledger } from '../../ledger/client.ts';
import { collectDueBills } from '../../ledger/market/collect-bills.ts';
import { recordDueUsage } from '../../ledger/market/record-usage.ts';
import { moveToBetterOffers } from '../../ledger/offers/move-to-better.ts';
import { recordDueOwnerUsage } from '../../ledger/usage/record-owner-usage.ts';
import type { Logger } from '../../model/log.ts';
import { type Repeating, startRepeating } from '../repeat.ts';

interface Deps {
  ledger: Ledger;
  log: Logger;
  /** ms since 1970, by the ledger's clock */
  clock: () => number;
  config: { BERTH_MONEY_GRACE_S: number; BERTH_MONEY_KEEP_S: number };
}

const intervalMs = 30_000;

/**
 * Charges due leases, moves VMs to better offers, and tells the usage of VMs that go on and of owners, every half minute until it is stopped; several control workers may do so
 * at once.
 */
export function startCollectingBills({ ledger, log, clock, config }: Deps): Repeating {
  const end = { graceS: config.BERTH_MONEY_GRACE_S, keepS: config.BERTH_MONEY_KEEP_S };
  return startRepeating({
    step: async () => {
      const due = await collectDueBills(ledger, end, clock);
      if (due > 0) log.info({ due }, 'leases were charged');
      const recorded = await recordDueUsage(ledger, clock);
      const owners = await recordDueOwnerUsage(ledger);
      const moves = await moveToBetterOffers(ledger, clock);
      if (moves > 0) log.info({ moves }, 'VMs move to better offers');
      return due + recorded + owners > 0 ? 'more' : 'done';
    },
    intervalMs,
    log,
    level: 'error',
    failure: 'leases could not be charged, or usage not told; the next round does it',
  });
}
