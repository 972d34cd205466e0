import { CloudEvent } from 'cloudevents';
import { z } from 'zod';
import type { EventRecord } from '../../ledger/events/read.ts';
import { cloudEventOf } from '../../model/webhooks/message.ts';
import type { ApiDeps } from '../deps.ts';
import { json, streamed } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { type Operation, operation } from '../http/operation.ts';
import { validate } from '../http/validation.ts';
import { sequence } from '../schemas/common.ts';
import { Event } from '../schemas/events.ts';

const EventsQuery = z.strictObject({
  limit: z.coerce
    .number({ error: 'expected a whole number from 1 to 1000' })
    .int({ error: 'expected a whole number from 1 to 1000' })
    .min(1)
    .max(1000)
    .default(100)
    .meta({ description: 'How many events at most' }),
  after: sequence
    .optional()
    .meta({ description: 'The `next` of the previous answer; without it, from the first event on that is kept' }),
  wait: z.coerce
    .number({ error: 'expected a number of seconds from 0 to 60' })
    .min(0)
    .max(60)
    .default(0)
    .meta({ description: 'Seconds to wait for an event where there is none yet' }),
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

const show = (row: EventRecord): unknown => new CloudEvent(cloudEventOf(row)).toJSON();

/** Whether the caller asks for a stream; a browser's EventSource does so by this header alone. */
const wantsStream = (accept: string | undefined): boolean =>
  (accept ?? '').split(',').some((one) => one.trim().split(';')[0]!.toLowerCase() === 'text/event-stream');

export function eventRoutes({ events: followers }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/events',
      id: 'listEvents',
      tag: 'events',
      summary: 'Read events in the order in which they became true',
      description:
        'A reader that continues from `next` reads each event once and misses none. Events never change. They are kept for `retentionDays`: a reader that was away for longer is told so (410 `cursor-expired`), reads the resources as they are, and goes on without `after`. With `Accept: text/event-stream` they are sent as they come, each with its `sequence` as its id, after `Last-Event-ID` or else `after`; what is waited for or streamed counts for the owner’s share of followers.',
      access: 'client',
      query: EventsQuery,
      answers: { 200: { description: 'Events, oldest first', schema: EventPage, media: 'text/event-stream' } },
      problems: ['cursor-expired'],
      handle: async ({ caller, query, req, res }) => {
        const filter = { owner: visibleOwner(caller), type: query.type, follower: caller.ownerId, limit: query.limit };
        if (wantsStream(req.get('accept'))) {
          const last = req.get('last-event-id');
          const after = last === undefined || last === '' ? query.after : validate(sequence, 'header', last);
          await followers.stream({ ...filter, after: after === undefined ? null : BigInt(after) }, show, res);
          return streamed;
        }
        const after = query.after === undefined ? null : BigInt(query.after);
        const page = await followers.waitForEvents({ ...filter, after }, query.wait * 1000, res);
        const { events, next, floor, retentionDays } = page;
        return json(200, { items: events.map(show), next: String(next), oldest: String(floor), retentionDays });
      },
    }),
  ];
}
