import { CloudEvent } from 'cloudevents';
import { z } from 'zod';
import { type EventRecord, readEvents } from '../../ledger/events/read.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { type Operation, operation } from '../http/operation.ts';
import { Event } from '../schemas/events.ts';

/** bigint's largest: PostgreSQL has no greater sequence. */
const lastSequence = 2n ** 63n - 1n;

const EventsQuery = z.strictObject({
  limit: z.coerce
    .number({ error: 'expected a whole number from 1 to 1000' })
    .int({ error: 'expected a whole number from 1 to 1000' })
    .min(1)
    .max(1000)
    .default(100)
    .meta({ description: 'How many events at most' }),
  after: z
    .string()
    .regex(/^\d{1,19}$/, { error: 'expected the `next` of a previous answer', abort: true })
    .refine((text) => BigInt(text) <= lastSequence, { error: 'expected the `next` of a previous answer' })
    .optional()
    .meta({ description: 'The `next` of the previous answer; without it, from the first event on that is kept' }),
  type: z
    .string()
    .max(128)
    .regex(/^[A-Za-z0-9.]+$/, { error: 'expected a type such as berth.task.succeeded' })
    .optional()
    .meta({ description: 'Only events of this type', example: 'berth.task.succeeded' }),
});

const EventPage = z.strictObject({
  items: z.array(Event),
  next: z.string().meta({ description: 'The cursor for the next call, also when there are no events yet' }),
  oldest: z.string().meta({ description: 'All events after this cursor are kept; an older one is refused (410 cursor-expired)' }),
  retentionDays: z.number().nullable().meta({
    description:
      'How long an event is kept after it was published, at least. A reader that calls more often misses none. null: for ever',
  }),
});

function show(row: EventRecord): unknown {
  return new CloudEvent({
    id: row.id,
    source: '/berth',
    type: row.type,
    subject: row.subject,
    time: row.time.toISOString(),
    datacontenttype: 'application/json',
    owner: row.ownerId,
    sequence: String(row.seq),
    data: row.data,
  }).toJSON();
}

export function eventRoutes({ ledger }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/events',
      id: 'listEvents',
      tag: 'events',
      summary: 'Read events in the order in which they became true',
      description:
        'A reader that continues from `next` reads each event once and misses none. Events never change. They are kept for `retentionDays`: a reader that was away for longer is told so (410 `cursor-expired`), reads the resources as they are, and goes on without `after`.',
      access: 'client',
      query: EventsQuery,
      answers: { 200: { description: 'Events, oldest first', schema: EventPage } },
      problems: ['cursor-expired'],
      handle: async ({ caller, query }) => {
        const filter = { owner: visibleOwner(caller), type: query.type };
        const after = query.after === undefined ? null : BigInt(query.after);
        const { events, next, floor, retentionDays } = await readEvents(ledger, filter, { after, limit: query.limit });
        return json(200, { items: events.map(show), next: String(next), oldest: String(floor), retentionDays });
      },
    }),
  ];
}
