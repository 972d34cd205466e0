import { billEventTypes } from '../../model/books/bill-events.ts';
import { type ErrorCode, errorTable } from '../../model/errors.ts';
import { intervalsOf } from '../../model/money/metered.ts';
import type { Transaction } from '../transaction.ts';
import { billEvent } from './bill-event.ts';
import { lockBill } from './bill-row.ts';
import { type ChargedBill, chargeBill } from './charge-bill.ts';
import { type EndedVms, recordLastUsage } from './record-usage.ts';

/** Its usage is as the event of the end has it. */
interface LeaseEnd extends EndedVms {
  /** Why it has ended; null: it did what it was to do, or its owner has ended it. */
  error: { code: ErrorCode } | null;
  /** RFC 3339 */
  now: string;
}

/**
 * Settles a lease in the transaction that ends it: charges the usage of its last event, gives the rest of the hold back, and writes
 * `berth.bill.settled`. Tells the last of its usage, where that was told hourly. As late in that transaction as can be: it locks the owner's account. A lease without a bill, or one that
 * was settled, costs one read.
 */
export async function settleLease(tx: Transaction, lease: string | null, end: LeaseEnd): Promise<void> {
  const { usage, disks, error, now } = end;
  const nowMs = Date.parse(now);
  await recordLastUsage(tx, end, nowMs);
  const bill = lease === null ? null : await lockBill(tx, lease);
  if (bill === null) return;
  const intervals = intervalsOf(usage, disks, nowMs);
  const broken = bill.promised && error !== null && errorTable[error.code].fault === 'site';
  const event = (charged: ChargedBill) => billEvent(billEventTypes.settled, bill, { charged, now });
  await chargeBill(tx, bill, { intervals, end: { broken }, nowMs, event });
}
