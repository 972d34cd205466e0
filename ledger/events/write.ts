import { eventData, eventId, type TaskEventType, type VmEventType } from '../../model/events.ts';
import type { Transaction } from '../transaction.ts';

export interface NewEvent {
  type: TaskEventType | VmEventType;
  subject: string;
  owner: string;
  /** RFC 3339 */
  time: string;
  data: unknown;
}

/**
 * Writes an event in the transaction of its fact, which the caller knows to be new: a second one of the same id would
 * undo the transaction. It gets its number when the transaction commits.
 * @param n which of its kind it is, of a fact that may be true of its subject again
 */
export async function writeEvent(tx: Transaction, fact: NewEvent, n: number | null = null): Promise<void> {
  const data = JSON.stringify(eventData[fact.type].parse(fact.data));
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(fact.subject, fact.type, n)}, ${fact.type}, ${fact.subject}, ${fact.owner}, ${fact.time}::timestamptz, ${data}::jsonb)`;
}
