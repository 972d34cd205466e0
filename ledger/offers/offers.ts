import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import { OfferRates } from '../../model/market/offer.ts';
import type { KnownOffer } from '../../scheduler/market/match.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { readSeenProviders } from './measured.ts';

export interface OfferRecord extends KnownOffer {
  validFrom: Date;
  validUntil: Date | null;
}

const unknown = { bootS: null, moveS: null, mibPerS: null, reliability: null };

/** Of each provider and currency the offer that began last, while it is valid; with what was measured. At most a thousand. */
export async function readOffers(tx: Transaction, nowMs: number): Promise<OfferRecord[]> {
  const now = new Date(nowMs);
  const rows = await tx.$queryRaw<
    { id: string; provider: string; currency: string; rates: unknown; validFrom: Date; validUntil: Date | null }[]
  >`
    SELECT * FROM (SELECT DISTINCT ON (provider, currency) id, provider, currency, rates, "validFrom", "validUntil" FROM "Offer"
      WHERE "validFrom" <= ${now}::timestamptz ORDER BY provider, currency, "validFrom" DESC, id DESC) o
    WHERE "validUntil" IS NULL OR "validUntil" > ${now}::timestamptz ORDER BY provider, currency LIMIT 1000`;
  const seen = await readSeenProviders(tx, [...new Set(rows.map(({ provider }) => provider))], nowMs);
  return rows.map((row) => {
    const { largest = null, bootS, moveS, mibPerS, reliability } = seen.get(row.provider) ?? { largest: null, ...unknown };
    return { ...row, rates: OfferRates.parse(row.rates), largest, measured: { bootS, moveS, mibPerS, reliability } };
  });
}

export interface OfferOrder {
  provider: string;
  currency: string;
  rates: OfferRates;
  validUntilMs: number | null;
  nowMs: number;
}

/** Publishes an offer, which holds from now on; it replaces that of the same provider and currency. */
export async function acceptOfferOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { provider, currency, rates, validUntilMs, nowMs }: OfferOrder,
  answer: (offer: {
    id: string;
    provider: string;
    currency: string;
    rates: OfferRates;
    validFrom: Date;
    validUntil: Date | null;
  }) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const [now, validUntil] = [new Date(nowMs), validUntilMs === null ? null : new Date(validUntilMs)];
    if (validUntil !== null && validUntil <= now)
      throw new BerthError('bad-request', 'The offer is valid at no time', {
        fields: [{ pointer: '/validUntil', detail: 'expected a time to come' }],
      });
    const data = { id: newId('offer'), provider, currency, rates, validFrom: now, validUntil, createdAt: now };
    await tx.offer.create({ data });
    return answer(data);
  });
}

/** Nothing is accepted by it from now on. @param owner of its provider; null: any. Throws not-found. */
export async function changeOfferEnded(ledger: Ledger, owner: string | null, id: string, nowMs: number): Promise<void> {
  const work = async (tx: Transaction): Promise<void> => {
    const row = await tx.offer.findFirst({ where: { id, ...(owner !== null && { ofProvider: { ownerId: owner } }) } });
    if (row === null) throw new BerthError('not-found', `There is no offer ${id}`);
    if (row.validUntil !== null && row.validUntil.getTime() <= nowMs) return;
    await tx.offer.update({ where: { id }, data: { validUntil: new Date(nowMs) } });
  };
  await inTransaction(ledger, work, requestLimits);
}
