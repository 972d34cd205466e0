import type { Remaining } from '../../model/drain.ts';
import type { ReservationEventType } from '../../model/events.ts';
import type { ReservationId } from '../../model/reservation.ts';
import { writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';

/** Writes the event of a reservation's new state, in the transaction of that state. A step may be repeated. */
export async function writeReservationEvent(
  tx: Transaction,
  id: ReservationId,
  type: ReservationEventType,
  now: string,
  problem: readonly Remaining[] = [],
): Promise<void> {
  const row = await tx.hostReservation.findUniqueOrThrow({ where: { id }, include: { holds: { orderBy: { hostId: 'asc' } } } });
  const data = {
    reservation: id,
    hosts: row.holds.map(({ hostId }) => hostId),
    state: row.state,
    startAt: row.startAt.toISOString(),
    endAt: row.endAt.toISOString(),
    purpose: row.purpose,
    problem: [...problem],
    at: now,
  };
  await writeEvent(tx, { type, subject: id, owner: row.ownerId, time: now, data }, 'ignore');
}
