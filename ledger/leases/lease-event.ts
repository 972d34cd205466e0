import type { Prisma } from '../../generated/prisma/client.ts';
import { eventId, LeaseData, type LeaseEventType } from '../../model/events.ts';

/**
 * The fact for outsiders, in the transaction that makes it true, and once, however often its step is repeated.
 * @param n which of its kind it is, of what may befall a lease again
 */
export async function writeLeaseEvent(
  tx: Prisma.TransactionClient,
  id: string,
  type: LeaseEventType,
  now: string,
  n: number | null = null,
): Promise<void> {
  const row = await tx.lease.findUniqueOrThrow({
    where: { id },
    include: {
      task: { select: { id: true } },
      vms: { select: { id: true, hostId: true }, orderBy: [{ node: 'asc' }, { id: 'asc' }] },
    },
  });
  const { startAt, endAt, vms } = row;
  const data = LeaseData.parse({
    lease: id,
    owner: row.ownerId,
    task: row.task?.id ?? null,
    kind: row.kind,
    promise: startAt === null || endAt === null ? null : { startAt: startAt.toISOString(), endAt: endAt.toISOString() },
    vms: vms.map((vm) => ({ vm: vm.id, host: vm.hostId })),
    at: now,
  });
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(id, type, n)}, ${type}, ${id}, ${row.ownerId}, ${now}::timestamptz, ${JSON.stringify(data)}::jsonb)
    ON CONFLICT (id) DO NOTHING`;
}
