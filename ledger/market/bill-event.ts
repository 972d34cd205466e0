import { type BillEventType, billEventTypes } from '../../model/books/bill-events.ts';
import { type NewEvent, writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';
import type { BillRow } from './bill-row.ts';
import type { ChargedBill } from './charge-bill.ts';

interface BillChange {
  charged: Omit<ChargedBill, 'shortMicros'>;
  /** RFC 3339 */
  now: string;
  /** What follows then, RFC 3339. */
  until?: string | null;
}

/** The event of a bill's change. */
export function billEvent(
  type: BillEventType,
  bill: BillRow,
  { charged, now, until = null }: BillChange,
): NewEvent<BillEventType> {
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
  return type === billEventTypes.settled ? event : { ...event, n: bill.charges };
}

/** Writes it in the transaction of the change. */
export const writeBillEvent = (tx: Transaction, type: BillEventType, bill: BillRow, change: BillChange): Promise<void> =>
  writeEvent(tx, billEvent(type, bill, change), 'reject');
