import { openAccount, ownerAccount, siteAccount } from '../../ledger/books/accounts.ts';
import { postTransfer } from '../../ledger/books/post-transfers.ts';
import { collectDueBills } from '../../ledger/market/collect-bills.ts';
import { inTransaction } from '../../ledger/transaction.ts';
import { newId } from '../../model/ids.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import type { FakeSite } from './fake-site.ts';

/** What a vCPU costs for an hour, in units; nothing else has a price. */
export const hourUnits = 3600;

export async function addPrices(site: FakeSite): Promise<void> {
  const rules = [{ vcpuHourMicros: String(hourUnits * 1_000_000), memoryGiBHourMicros: '0', diskGiBHourMicros: '0' }];
  const terms = PriceTerms.parse({ rules });
  await site.ledger.priceBook.create({ data: { id: newId('price'), currency: 'EUR', terms, validFrom: new Date() } });
}

/** Pays in, or out, until the owner's account has so many units. */
export async function setMoney(site: FakeSite, owner: string, units: number): Promise<void> {
  await inTransaction(site.ledger, async (tx) => {
    const nowMs = Date.now();
    const { id: account, balanceMicros } = await openAccount(tx, ownerAccount(owner, 'EUR'), { lowerLimitMicros: 0n, nowMs });
    const from = (await openAccount(tx, siteAccount('adjustments', 'EUR'), { lowerLimitMicros: null, nowMs })).id;
    const amountMicros = BigInt(units) * 1_000_000n - balanceMicros;
    await postTransfer(tx, {
      kind: 'adjustment',
      reason: 'paid',
      subject: account,
      keyId: null,
      idempotencyKey: newId('transfer'),
      atMs: nowMs,
      postings: [
        { account, amountMicros },
        { account: from, amountMicros: -amountMicros },
      ],
    });
  });
}

/** The round of a control worker when the bill of a task or a VM is due. */
export async function collectNow(site: FakeSite, subject: string, keepS = 3600): Promise<void> {
  await site.ledger.bill.updateMany({
    where: { subjectId: subject, endedAt: null, dueAt: { not: null } },
    data: { dueAt: new Date() },
  });
  await collectDueBills(site.ledger, { graceS: 0, keepS }, Date.now);
}
