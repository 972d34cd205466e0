import type { MarketTerms, MeasuredProvider, OfferRates } from '../../model/market/offer.ts';

/** An offer with what the site knows of its provider. */
export interface KnownOffer {
  id: string;
  provider: string;
  currency: string;
  rates: OfferRates;
  measured: MeasuredProvider;
  /** The largest of its hosts that are part of the site, empty. */
  largest: MarketSize | null;
}

export interface MarketSize {
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

/** An order as far as offers depend on it; the size is that of each VM. */
export interface MarketOrder extends MarketSize {
  nodes: number;
  currency: string;
}

/** Why an offer is not for an order, in the order of the checks. */
export type OfferFilter = 'currency' | 'provider' | 'reliability' | 'boot' | 'size' | 'limit';

export interface MatchedOffer {
  offer: KnownOffer;
  /** What an hour of the whole order costs there, in micro-units, rounded up. */
  hourMicros: number;
}

export interface MarketMatch {
  /** The cheapest first; by provider among equals. */
  matched: MatchedOffer[];
  refused: { offer: KnownOffer; filter: OfferFilter }[];
}

const mibPerGiB = 1024n;

/** What an hour of the whole order costs by these prices, in micro-units, rounded up. */
export function hourMicrosOf(rates: OfferRates, { vcpus, memoryMiB, diskMiB, nodes }: Omit<MarketOrder, 'currency'>): bigint {
  const each =
    BigInt(vcpus) * BigInt(rates.vcpuHourMicros) * mibPerGiB +
    BigInt(memoryMiB) * BigInt(rates.memoryGiBHourMicros) +
    BigInt(diskMiB) * BigInt(rates.diskGiBHourMicros);
  return (BigInt(nodes) * each + mibPerGiB - 1n) / mibPerGiB;
}

const holds = (host: MarketSize | null, order: MarketSize): boolean =>
  host !== null && host.vcpus >= order.vcpus && host.memoryMiB >= order.memoryMiB && host.diskMiB >= order.diskMiB;

/** The first test that an offer fails; null: the order may take it. */
function failedOfferFilter(offer: KnownOffer, order: MarketOrder, terms: MarketTerms): OfferFilter | null {
  const { minReliability, maxBootS, maxHourMicros, providers } = terms;
  const { bootS, reliability } = offer.measured;
  if (offer.currency !== order.currency) return 'currency';
  if (providers !== undefined && !providers.includes(offer.provider)) return 'provider';
  if (minReliability !== undefined && (reliability === null || reliability < minReliability)) return 'reliability';
  if (maxBootS !== undefined && (bootS === null || bootS > maxBootS)) return 'boot';
  if (!holds(offer.largest, order)) return 'size';
  return maxHourMicros !== undefined && hourMicrosOf(offer.rates, order) > BigInt(maxHourMicros) ? 'limit' : null;
}

/** Which offers an order may take, and why not the others. Pure; the same for any order of the offers. */
export function matchOffers(offers: readonly KnownOffer[], order: MarketOrder, terms: MarketTerms): MarketMatch {
  const matched: MatchedOffer[] = [];
  const refused: MarketMatch['refused'] = [];
  for (const offer of offers) {
    const filter = failedOfferFilter(offer, order, terms);
    if (filter === null) matched.push({ offer, hourMicros: Number(hourMicrosOf(offer.rates, order)) });
    else refused.push({ offer, filter });
  }
  matched.sort((a, b) => a.hourMicros - b.hourMicros || (a.offer.provider < b.offer.provider ? -1 : 1));
  return { matched, refused };
}
