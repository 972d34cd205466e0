import type { Event } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type EventLog, readEventFloor, readEventLog } from './event-log.ts';
import { numberAllEvents } from './number-events.ts';

export type EventRecord = Event;

export interface EventPage extends Omit<EventLog, 'last'> {
  events: EventRecord[];
  /** The cursor of the next call: of the last event, or where there is none left, of the last that the filter leaves out. */
  next: bigint;
}

/**
 * Events after a cursor, oldest first. Numbers what has committed until now before that: a reader sees what it has written
 * itself. A reader that sees the last of its filter goes on after all events, so that a cursor that is used within the
 * retention never expires.
 * @param filter `owner`: whose; null: every owner's
 * @param after null: from the first event on that is kept
 * @throws cursor-expired when events after the cursor are kept no more
 */
export async function readEvents(
  ledger: Ledger,
  filter: { owner: string | null; type?: string | undefined; types?: readonly string[] },
  { after, limit }: { after: bigint | null; limit: number },
): Promise<EventPage> {
  const { owner, type, types } = filter;
  await numberAllEvents(ledger);
  for (;;) {
    const { last, floor } = await readEventLog(ledger);
    const start = after ?? floor;
    const events = await ledger.event.findMany({
      where: {
        seq: { gt: start },
        ...(owner !== null && { ownerId: owner }),
        ...(type !== undefined && { type }),
        ...(types !== undefined && { type: { in: [...types] } }),
      },
      orderBy: { seq: 'asc' },
      take: limit,
    });
    // After the events: a partition that was not read because it was removed has raised the floor before.
    const log = await readEventFloor(ledger);
    const seen = events.at(-1)?.seq ?? start;
    if (log.floor <= start) return { ...log, events, next: events.length < limit && last > seen ? last : seen };
    if (after !== null) throw cursorExpired(after, log);
  }
}

export const cursorExpired = (after: bigint, { floor, retentionDays }: Omit<EventLog, 'last'>): BerthError =>
  new BerthError(
    'cursor-expired',
    `Events after ${after} were asked for; those up to ${floor} are kept no more${retentionDays === null ? '' : `: events are kept for ${retentionDays} days`}. Read the resources as they are now, and go on after ${floor}`,
  );
