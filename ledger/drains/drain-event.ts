import type { DrainState, Remaining } from '../../model/drain.ts';
import type { DrainEventType } from '../../model/events.ts';
import { writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';
import { readSuspendedInPlace } from './suspended-in-place.ts';

interface EventSubject {
  id: string;
  hostId: string;
  ownerId: string;
  state: DrainState;
  deadline: Date;
  reason: string | null;
}

/** Writes the event of a drain's new state, in the transaction of that state. A step may be repeated. */
export async function writeDrainEvent(
  tx: Transaction,
  drain: EventSubject,
  type: DrainEventType,
  now: string,
  remaining: readonly Remaining[] = [],
): Promise<void> {
  const inPlace = await readSuspendedInPlace(tx, [drain.id]);
  const data = {
    drain: drain.id,
    host: drain.hostId,
    state: drain.state,
    deadline: drain.deadline.toISOString(),
    reason: drain.reason,
    remaining: [...remaining],
    suspended: inPlace.map(({ vm }) => vm),
    at: now,
  };
  await writeEvent(tx, { type, subject: drain.id, owner: drain.ownerId, time: now, data }, 'ignore');
}
