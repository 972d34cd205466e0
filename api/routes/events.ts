import { CloudEvent } from 'cloudevents';
import { z } from 'zod';
import type { Event as EventRow } from '../../generated/prisma/client.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { type Operation, operation } from '../http/operation.ts';
import { Event } from '../schemas.ts';

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
    .regex(/^\d{1,19}$/, { error: 'expected the `next` of an answer before', abort: true })
    .refine((text) => BigInt(text) <= lastSequence, { error: 'expected the `next` of an answer before' })
    .default('0')
    .meta({ description: 'The `next` of the answer before; without it, from the first event on' }),
  type: z
    .string()
    .max(128)
    .regex(/^[A-Za-z0-9.]+$/, { error: 'expected a type such as berth.task.succeeded' })
    .optional()
    .meta({ description: 'Events of this type alone', example: 'berth.task.succeeded' }),
});

const EventPage = z.strictObject({
  items: z.array(Event),
  next: z.string().meta({ description: 'The cursor for the next call, also when there are no events yet' }),
});

function show(row: EventRow): unknown {
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
      description: 'A reader that goes on from `next` sees each event once and misses none. Events are never changed.',
      access: 'client',
      query: EventsQuery,
      answers: { 200: { description: 'Events, oldest first', schema: EventPage } },
      problems: [],
      handle: async ({ caller, query }) => {
        const rows = await ledger.event.findMany({
          where: {
            seq: { gt: BigInt(query.after) },
            ...(caller.role === 'client' && { ownerId: caller.ownerId }),
            ...(query.type !== undefined && { type: query.type }),
          },
          orderBy: { seq: 'asc' },
          take: query.limit,
        });
        return json(200, { items: rows.map(show), next: String(rows.at(-1)?.seq ?? query.after) });
      },
    }),
  ];
}
