import { billEventTypes } from '../../model/books/bill-events.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { batch } from '../housekeeping.ts';
import { suspendUnpaidWork } from '../leases/suspend-unpaid.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoOf, type Transaction } from '../transaction.ts';
import { acceptOperation } from '../vms/accept-vm.ts';
import { writeBillEvent } from './bill-event.ts';
import { type BillRow, lockBill } from './bill-row.ts';
import { type ChargedBill, chargeBill } from './charge-bill.ts';
import { billing } from './intervals.ts';
import { readLeaseUsage } from './lease-usage.ts';
import { findBill } from './read-bills.ts';

/** What follows when money ends. */
export interface MoneyEnd {
  /** How long after the warning a VM, or the work of a task, is suspended. */
  graceS: number;
  /** How long after that a VM is removed, and a task cancelled. */
  keepS: number;
}

/**
 * Charges the leases that are due, each in a transaction of its own: best effort that goes on. Where the owner's account cannot
 * fill the hold of an hour, the owner is warned; after the grace, of which the hold pays, the VM, or the work of the task, is
 * suspended; at last a VM is removed, and a task cancelled. All of that is written for the workflows, which the housekeeping and
 * the planner notify.
 * @returns how many leases were due; at most a hundred, and the caller asks again
 */
export async function collectDueBills(ledger: Ledger, end: MoneyEnd, clock: () => number): Promise<number> {
  const due = await ledger.$queryRaw<{ lease: string }[]>`
    SELECT "leaseId" AS lease FROM "Bill" WHERE "dueAt" <= ${isoOf(clock())}::timestamptz ORDER BY "dueAt", "leaseId" LIMIT ${batch}`;
  for (const { lease } of due) {
    const next = await inTransaction(ledger, (tx) => chargeDueBill(tx, lease, end, clock()));
    if (next !== null) await followUp(ledger, lease, next, end, clock());
  }
  return due.length;
}

type FollowUp = 'suspend' | 'remove';

const msOf = (seconds: number): number => seconds * 1000;

async function chargeDueBill(tx: Transaction, lease: string, end: MoneyEnd, nowMs: number): Promise<FollowUp | null> {
  const bill = await lockBill(tx, lease);
  // Another control worker has charged it, or its lease has ended.
  if (bill === null || bill.dueAt === null || bill.dueAt.getTime() > nowMs) return null;
  const now = isoOf(nowMs);
  const charged = await chargeBill(tx, bill, { intervals: await readLeaseUsage(tx, lease, now), end: null, nowMs });
  return charged.shortMicros > 0n ? noteShort(tx, bill, charged, end, nowMs) : noteFilled(tx, bill, charged, nowMs);
}

async function noteFilled(tx: Transaction, bill: BillRow, charged: ChargedBill, nowMs: number): Promise<null> {
  const dueAt = new Date(nowMs + msOf(billing.intervalS));
  await tx.bill.update({ where: { leaseId: bill.leaseId }, data: { dueAt, warnedAt: null, suspendedAt: null } });
  if (bill.warnedAt !== null) await writeBillEvent(tx, billEventTypes.cleared, bill, { charged, now: isoOf(nowMs) });
  return null;
}

async function noteShort(
  tx: Transaction,
  bill: BillRow,
  charged: ChargedBill,
  { graceS, keepS }: MoneyEnd,
  nowMs: number,
): Promise<FollowUp | null> {
  const warnedMs = bill.warnedAt?.getTime() ?? nowMs;
  const suspendMs = warnedMs + msOf(graceS);
  const dueMs = nowMs + msOf(billing.warnedIntervalS);
  const dueAt = new Date(suspendMs > nowMs && suspendMs < dueMs ? suspendMs : dueMs);
  await tx.bill.update({ where: { leaseId: bill.leaseId }, data: { dueAt, warnedAt: new Date(warnedMs) } });
  const until = isoOf(suspendMs);
  if (bill.warnedAt === null) await writeBillEvent(tx, billEventTypes.warned, bill, { charged, now: isoOf(nowMs), until });
  if (bill.suspendedAt !== null) return nowMs >= bill.suspendedAt.getTime() + msOf(keepS) ? 'remove' : null;
  return bill.warnedAt !== null && nowMs >= suspendMs ? 'suspend' : null;
}

/** In a transaction of its own, because the placement lock and the rows of VMs and tasks come before bills. */
async function followUp(ledger: Ledger, lease: string, next: FollowUp, { keepS }: MoneyEnd, nowMs: number): Promise<void> {
  const work = async (tx: Transaction): Promise<void> => {
    await lockPlacement(tx);
    if (next === 'remove') await requestRemoval(tx, lease, nowMs);
    else await requestSuspension(tx, lease, nowMs);
    const bill = await lockBill(tx, lease);
    if (bill === null) return;
    const charged = await findBill(tx, null, lease);
    const now = isoOf(nowMs);
    if (next === 'suspend') {
      await tx.bill.update({ where: { leaseId: lease }, data: { suspendedAt: now } });
      await writeBillEvent(tx, billEventTypes.suspended, bill, { charged, now, until: isoOf(nowMs + msOf(keepS)) });
    } else {
      // Nothing is left to be done but its removal, which settles it.
      await tx.bill.update({ where: { leaseId: lease }, data: { dueAt: null } });
      await writeBillEvent(tx, billEventTypes.removed, bill, { charged, now });
    }
  };
  try {
    await inTransaction(ledger, work);
  } catch (error) {
    // The task's work has not begun or is over, or the VM migrates, or another operation of it is under way: it is tried again when the bill is due again.
    if (!(error instanceof BerthError) || error.code !== 'conflict') throw error;
  }
}

/** VMs without a domain take no processors and no memory: nothing is left to suspend. */
const asleepStates = ['pending', 'suspended', 'stopped', 'crashed'];

async function requestSuspension(tx: Transaction, lease: string, nowMs: number): Promise<void> {
  const task = await tx.task.findUnique({ where: { leaseId: lease }, select: { id: true } });
  if (task !== null) return suspendUnpaidWork(tx, lease, nowMs);
  const vms = await tx.vm.findMany({ where: { leaseId: lease, taskId: null }, select: { id: true, state: true } });
  for (const { id, state } of vms) if (!asleepStates.includes(state)) await acceptOperation(tx, id, 'suspend', nowMs);
}

async function requestRemoval(tx: Transaction, lease: string, nowMs: number): Promise<void> {
  const requestedAt = new Date(nowMs);
  await tx.task.updateMany({ where: { leaseId: lease, cancelRequestedAt: null }, data: { cancelRequestedAt: requestedAt } });
  await tx.vm.updateMany({
    where: { leaseId: lease, taskId: null, removalRequestedAt: null },
    data: { removalRequestedAt: requestedAt },
  });
}
