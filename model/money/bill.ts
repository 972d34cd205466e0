import { costPartsPerMicro, divideHalfEven, millionths } from './exact.ts';
import type { PriceTerms } from './price-terms.ts';

/** Who gets what of the price of some usage, in micro-units: buyer = tax + site + sum of the providers. */
export interface BillShares {
  buyerMicros: bigint;
  taxMicros: bigint;
  siteMicros: bigint;
  providerMicros: Map<string, bigint>;
}

export interface BillRules {
  /** Above which nothing is charged; null: there is no limit. */
  totalMicros: bigint | null;
  /** It has ended by the fault of the site, which had promised it. */
  broken: boolean;
}

/**
 * The bill of usage that costs so much at each provider. Each share is rounded once, half to even, from the exact cost; what the
 * roundings leave is the site's, so that no micro-unit is made or lost. Of what is above the total each provider bears its part.
 * @param costs in cost parts, as costByProvider has them
 */
export function billOf(terms: PriceTerms, costs: ReadonlyMap<string, bigint>, { totalMicros, broken }: BillRules): BillShares {
  const cost = [...costs.values()].reduce((sum, one) => sum + one, 0n);
  const limit = totalMicros === null ? null : totalMicros * costPartsPerMicro;
  const [up, down] = limit !== null && cost > limit ? [limit, cost] : [1n, 1n];
  const kept = broken ? millionths - BigInt(terms.refundMillionths) : millionths;
  const shareOf = (parts: bigint, [share, whole]: readonly [bigint, bigint]): bigint =>
    divideHalfEven(parts * up * kept * share, down * costPartsPerMicro * millionths * whole);

  const tax = BigInt(terms.taxMillionths);
  const fee = BigInt(terms.feeMillionths);
  const buyerMicros = shareOf(cost, [1n, 1n]);
  const taxMicros = shareOf(cost, [tax, millionths + tax]);
  const providerMicros = new Map(
    [...costs].map(([provider, parts]) => [provider, shareOf(parts, [millionths - fee, millionths + tax])]),
  );
  const paid = [...providerMicros.values()].reduce((sum, one) => sum + one, taxMicros);
  return { buyerMicros, taxMicros, providerMicros, siteMicros: buyerMicros - paid };
}
