import { ownerUsageTypes } from '../../model/books/usage-event.ts';
import type { AccountId } from '../../model/ids.ts';
import type { PriceTerms } from '../../model/money/price-terms.ts';
import { type Service, type ServiceUsage, serviceCharge, serviceCosts, services } from '../../model/money/services.ts';
import { openAccount, siteAccount } from '../books/accounts.ts';
import { type NewTransfer, postTransfers } from '../books/post-transfers.ts';
import { writeEvent } from '../events/write-event.ts';
import { noteSpending } from '../market/budgets.ts';
import { findValidPrices } from '../market/price-books.ts';
import { isoOf, type Transaction } from '../transaction.ts';

const reasons: Record<Service, string> = { repository: 'files and logs in the repository', ports: 'published ports' };

interface Due {
  service: Service;
  dueParts: bigint;
  charges: number;
  unpaidSince: Date | null;
}

interface Payer {
  owner: string;
  account: AccountId;
  currency: string;
  terms: PriceTerms;
  nowMs: number;
}

/**
 * Charges what an owner has used besides leases, at the prices of now, with what is still due. What the account does not have stays
 * due, and nobody bears it: it is the site's own. Last in its transaction, since it locks the owner's account.
 */
export async function chargeServices(tx: Transaction, owner: string, used: ServiceUsage, nowMs: number): Promise<void> {
  const prices = await findValidPrices(tx, owner, nowMs);
  if (prices === null || prices.account === null) return;
  const costs = serviceCosts(prices.terms, used);
  const due: Due[] = [];
  for (const service of services) {
    const one = await addDue(tx, owner, prices.currency, service, costs[service]);
    if (one !== null) due.push(one);
  }
  if (due.length === 0) return;
  const { currency, terms } = prices;
  await chargeDue(tx, { owner, account: prices.account as AccountId, currency, terms, nowMs }, due);
}

/** Adds to what is due; null: nothing was and is. */
async function addDue(tx: Transaction, owner: string, currency: string, service: Service, parts: bigint): Promise<Due | null> {
  if (parts > 0n)
    await tx.$executeRaw`
      INSERT INTO "OwnerCharge" ("ownerId", currency, service, "dueParts") VALUES (${owner}, ${currency}, ${service}, ${String(parts)}::numeric)
      ON CONFLICT ("ownerId", currency, service) DO UPDATE SET "dueParts" = "OwnerCharge"."dueParts" + EXCLUDED."dueParts"`;
  const rows = await tx.$queryRaw<{ dueParts: string; charges: number; unpaidSince: Date | null }[]>`
    SELECT "dueParts"::text AS "dueParts", charges, "unpaidSince" FROM "OwnerCharge"
    WHERE "ownerId" = ${owner} AND currency = ${currency} AND service = ${service} FOR NO KEY UPDATE`;
  const [row] = rows;
  return row === undefined ? null : { ...row, service, dueParts: BigInt(row.dueParts) };
}

async function chargeDue(tx: Transaction, payer: Payer, due: readonly Due[]): Promise<void> {
  const { owner, account, currency, terms, nowMs } = payer;
  const parties = {
    site: (await openAccount(tx, siteAccount('fees', currency), { lowerLimitMicros: null, nowMs })).id,
    tax: (await openAccount(tx, { ...siteAccount('', currency), kind: 'tax' }, { lowerLimitMicros: null, nowMs })).id,
  };
  const rows = await tx.$queryRaw<{ available: bigint }[]>`
    SELECT balance - "lowerLimit" AS available FROM "Account" WHERE id = ${account} FOR NO KEY UPDATE`;
  let available = rows[0]!.available;
  const transfers: NewTransfer[] = [];
  for (const { service, dueParts, charges, unpaidSince } of due) {
    const charge = serviceCharge(terms, dueParts, available);
    available -= charge.buyerMicros;
    const n = charges + 1;
    if (charge.buyerMicros > 0n)
      transfers.push({
        kind: 'usage',
        reason: reasons[service],
        subject: owner,
        keyId: null,
        idempotencyKey: `${owner}/usage/${service}/${currency}/${n}`,
        atMs: nowMs,
        postings: [
          { account, amountMicros: -charge.buyerMicros },
          { account: parties.site, amountMicros: charge.siteMicros },
          { account: parties.tax, amountMicros: charge.taxMicros },
        ].filter(({ amountMicros }) => amountMicros !== 0n),
      });
    const since = charge.unpaidMicros === 0n ? null : (unpaidSince ?? new Date(nowMs));
    await tx.$executeRaw`
      UPDATE "OwnerCharge" SET "dueParts" = ${String(charge.leftParts)}::numeric, "unpaidSince" = ${since},
        charges = ${charge.buyerMicros > 0n ? n : charges} WHERE "ownerId" = ${owner} AND currency = ${currency} AND service = ${service}`;
    if (since !== null && unpaidSince === null) await writeUnpaid(tx, payer, service, charge.unpaidMicros);
  }
  await postTransfers(tx, transfers);
  const spent = transfers.reduce((sum, { postings }) => sum - postings[0]!.amountMicros, 0n);
  if (spent > 0n) await noteSpending(tx, { ownerId: owner, currency }, spent, nowMs);
}

async function writeUnpaid(tx: Transaction, { owner, currency, nowMs }: Payer, service: Service, micros: bigint): Promise<void> {
  const at = isoOf(nowMs);
  const data = { owner, currency, service, dueMicros: String(micros), at };
  const event = { type: ownerUsageTypes.unpaid, subject: `${owner}/${service}/${currency}`, owner, time: at, n: nowMs, data };
  await writeEvent(tx, event, 'reject');
}
