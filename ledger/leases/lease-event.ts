import type { LeaseEventType } from '../../model/events.ts';
import { writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';

/**
 * Writes the event of a lease's change, in the transaction of that change, once for any number of repeats.
 * @param n tells apart the suspensions and resumptions of one lease
 */
export async function writeLeaseEvent(tx: Transaction, id: string, type: LeaseEventType, now: string, n?: number): Promise<void> {
  const row = await tx.lease.findUniqueOrThrow({
    where: { id },
    include: {
      task: { select: { id: true } },
      vms: { select: { id: true, hostId: true }, orderBy: [{ node: 'asc' }, { id: 'asc' }] },
    },
  });
  const { startAt, endAt, vms } = row;
  const data = {
    lease: id,
    owner: row.ownerId,
    task: row.task?.id ?? null,
    kind: row.kind,
    promise: startAt === null || endAt === null ? null : { startAt: startAt.toISOString(), endAt: endAt.toISOString() },
    vms: vms.map((vm) => ({ vm: vm.id, host: vm.hostId })),
    at: now,
  };
  await writeEvent(tx, { type, subject: id, owner: row.ownerId, time: now, data, ...(n === undefined ? {} : { n }) }, 'ignore');
}

/** The same for a lease with a promise; a lease without one begins and ends with its task or VM, whose events say so. */
export async function writePromisedLeaseEvent(
  tx: Transaction,
  lease: string | null,
  type: LeaseEventType,
  now: string,
): Promise<void> {
  if (lease === null || (await tx.lease.count({ where: { id: lease, startAt: { not: null } } })) === 0) return;
  await writeLeaseEvent(tx, lease, type, now);
}
