import { Prisma } from '../../generated/prisma/client.ts';
import { type EventData, type EventType, eventData, eventId } from '../../model/events.ts';
import type { Transaction } from '../transaction.ts';

export interface NewEvent<T extends EventType> {
  type: T;
  subject: string;
  owner: string;
  /** RFC 3339 */
  time: string;
  data: EventData<T>;
  /** Tells events of one type and subject apart, where the fact may become true again. */
  n?: number;
}

/**
 * What happens when the event exists already. `reject`: the caller has established under a lock that the fact is new, so
 * a second event of the same id is an error that undoes the transaction. `ignore`: the step may be repeated after its
 * fact was recorded, and the first event stands.
 */
type OnRepeat = 'reject' | 'ignore';

/**
 * Writes an event in the transaction of its fact, with its data in the published shape; the only writer of "Event". The
 * event gets its sequence number after the transaction has committed. Throws a ZodError for data of another shape.
 */
export async function writeEvent<T extends EventType>(tx: Transaction, event: NewEvent<T>, onRepeat: OnRepeat): Promise<void> {
  if (onRepeat === 'ignore') await tx.$queryRaw`SELECT berth_write_event_once(${eventValues(event)})`;
  else await tx.$executeRaw(eventInsert(event));
}

/** Several at once, each of which may have been written before: one statement, whatever their number. */
export async function writeEventsOnce(tx: Transaction, events: readonly NewEvent<EventType>[]): Promise<void> {
  if (events.length === 0) return;
  const rows = Prisma.join(events.map((event) => Prisma.sql`(${eventValues(event)})`));
  await tx.$queryRaw`
    SELECT berth_write_event_once(v.id, v.type, v.subject, v.owner, v.at, v.data)
    FROM (VALUES ${rows}) AS v(id, type, subject, owner, at, data)`;
}

function eventValues<T extends EventType>({ type, subject, owner, time, data, n }: NewEvent<T>): Prisma.Sql {
  const id = eventId(subject, type, n ?? null);
  return Prisma.sql`${id}, ${type}, ${subject}, ${owner}, ${time}::timestamptz, ${JSON.stringify(eventData[type].parse(data))}::jsonb`;
}

/** The same as a part of the statement that writes the fact; a second event of the same id undoes it. */
export const eventInsert = <T extends EventType>(event: NewEvent<T>): Prisma.Sql =>
  Prisma.sql`INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES (${eventValues(event)})`;
