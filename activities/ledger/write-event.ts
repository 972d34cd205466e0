import { eventId, type TaskEventType, taskEventData } from '../../model/events.ts';
import type { Transaction } from './deps.ts';

export interface TaskFact {
  type: TaskEventType;
  subject: string;
  owner: string;
  /** RFC 3339 */
  time: string;
  data: unknown;
}

/**
 * Writes an event in the transaction of its fact, which the caller knows to be new: a second one of the same id would
 * undo the transaction. It gets its number when the transaction commits.
 */
export async function writeEvent(tx: Transaction, fact: TaskFact): Promise<void> {
  const data = JSON.stringify(taskEventData[fact.type].parse(fact.data));
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(fact.subject, fact.type)}, ${fact.type}, ${fact.subject}, ${fact.owner}, ${fact.time}::timestamptz, ${data}::jsonb)`;
}
