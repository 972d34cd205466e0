import { type BillEventType, billEventTypes } from '../../model/books/bill-events.ts';
import { writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';
import type { BillRow } from './bill-row.ts';
import type { ChargedBill } from './charge-bill.ts';

/** Writes the event of a bill's change in the transaction of the change. @param until what follows then, RFC 3339 */
export async function writeBillEvent(
  tx: Transaction,
  type: BillEventType,
  bill: BillRow,
  { charged, now, until = null }: { charged: Omit<ChargedBill, 'shortMicros'>; now: string; until?: string | null },
): Promise<void> {
  const data = {
    lease: bill.leaseId,
    owner: bill.ownerId,
    account: bill.accountId,
    currency: bill.currency,
    totalMicros: bill.totalMicros === null ? null : String(bill.totalMicros),
    chargedMicros: String(charged.chargedMicros),
    heldMicros: String(charged.heldMicros),
    uncollectedMicros: String(charged.uncollectedMicros),
    until,
    at: now,
  };
  const event = { type, subject: bill.leaseId, owner: bill.ownerId, time: now, data };
  // A lease may be warned again and again: the number of its charges tells those apart.
  await writeEvent(tx, type === billEventTypes.settled ? event : { ...event, n: bill.charges }, 'reject');
}
