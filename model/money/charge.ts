import type { BillShares } from './bill.ts';
import { least } from './exact.ts';

/** What has been charged for a lease until now, by who got it. */
export interface PaidShares {
  buyerMicros: bigint;
  taxMicros: bigint;
  siteMicros: bigint;
  providerMicros: ReadonlyMap<string, bigint>;
}

/** What the accounts that pay have, above their limits. */
export interface Funds {
  heldMicros: bigint;
  availableMicros: bigint;
  /** Of earlier charges, what the site has borne. */
  uncollectedMicros: bigint;
}

/** What one charge adds to each party; what it takes from the payers is below zero. They sum to zero. */
export interface Charge {
  holdMicros: bigint;
  accountMicros: bigint;
  uncollectedMicros: bigint;
  taxMicros: bigint;
  siteMicros: bigint;
  providerMicros: Map<string, bigint>;
}

/**
 * What is to be posted so that all that was charged is the bill. The hold pays first, then the account; what neither has, the site
 * bears, so that providers are paid. Where less was used than was charged, the difference goes back the other way round.
 */
export function chargeOf(bill: BillShares, paid: PaidShares, { heldMicros, availableMicros, uncollectedMicros }: Funds): Charge {
  const due = bill.buyerMicros - paid.buyerMicros;
  const names = new Set([...bill.providerMicros.keys(), ...paid.providerMicros.keys()]);
  const providerMicros = new Map(
    [...names].map((name) => [name, (bill.providerMicros.get(name) ?? 0n) - (paid.providerMicros.get(name) ?? 0n)]),
  );
  const shares = { taxMicros: bill.taxMicros - paid.taxMicros, siteMicros: bill.siteMicros - paid.siteMicros, providerMicros };
  if (due <= 0n) {
    const toSite = least(-due, uncollectedMicros);
    return { holdMicros: -due - toSite, accountMicros: 0n, uncollectedMicros: toSite, ...shares };
  }
  const fromHold = least(due, heldMicros);
  const fromAccount = least(due - fromHold, availableMicros);
  return { holdMicros: -fromHold, accountMicros: -fromAccount, uncollectedMicros: fromHold + fromAccount - due, ...shares };
}
