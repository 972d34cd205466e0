import { z } from 'zod';
import { readQuote } from '../../ledger/leases/read-quote.ts';
import { readSchedule, type ScheduledLease, type SiteSchedule } from '../../ledger/leases/read-schedule.ts';
import type { PriceQuote } from '../../ledger/market/quotes.ts';
import { LeaseSpec, ResourcesSpec, taskLimits } from '../../model/task.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { refuseBeyondHorizon } from '../http/horizon.ts';
import { type Operation, operation } from '../http/operation.ts';
import { refuseHighPriority } from '../http/priority.ts';
import { timeWithOffset } from '../schemas/common.ts';
import { Quote, Schedule } from '../schemas/leases.ts';
import type { QuotedPrice } from '../schemas/money/prices.ts';

const Interval = z.strictObject({
  from: timeWithOffset.optional().meta({ description: 'Leases that end later than this; now by default' }),
  to: timeWithOffset.optional().meta({ description: 'Leases that start before this' }),
});

const QuoteOrder = z
  .strictObject({
    image: z.string().min(1).max(128),
    resources: ResourcesSpec.default({ vcpus: 1, memoryMiB: 256, diskMiB: 512 }),
    nodes: z.int().min(1).max(taskLimits.nodes).default(1),
    lease: LeaseSpec.default({ kind: 'bestEffort', durationS: 3600 }),
  })
  .meta({ id: 'QuoteOrder' });

const isoFromSeconds = (seconds: number): string => new Date(Math.round(seconds * 1000)).toISOString();

function show({ lease, hosts, startAtS, endAtS, firm }: ScheduledLease) {
  const { id, task, owner, kind, phase, nodes } = lease;
  const times = { startAt: isoFromSeconds(startAtS), endAt: isoFromSeconds(Math.max(startAtS, endAtS)) };
  return { lease: id, task: task?.id ?? null, owner, kind, phase, nodes, hosts, ...times, firm };
}

const showPrice = ({ id, totalMicros, holdMicros, expiresAt, ...price }: PriceQuote): z.input<typeof QuotedPrice> => ({
  quote: id,
  ...price,
  totalMicros: String(totalMicros),
  holdMicros: String(holdMicros),
  expiresAt: expiresAt.toISOString(),
});

/** A client sees its own leases only. */
function visible({ leases, suspensions, unplanned }: SiteSchedule, caller: Caller): SiteSchedule {
  const isVisible = ({ owner }: { owner: string }) => caller.role === 'operator' || owner === caller.ownerId;
  return {
    leases: leases.filter(({ lease }) => isVisible(lease)),
    suspensions: suspensions.filter(({ lease }) => isVisible(lease)),
    unplanned: unplanned.filter(isVisible),
  };
}

export function scheduleRoutes({ ledger, clock, config }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/schedule',
      id: 'getSchedule',
      tag: 'leases',
      summary: 'The plan: when leases start and end, and where',
      description:
        'Promised times do not change; the others are what the plan expects now. Of the caller’s own leases; an operator sees all.',
      access: 'client',
      plans: true,
      query: Interval,
      answers: { 200: { description: 'The plan at this moment', schema: Schedule } },
      problems: [],
      handle: async ({ caller, query }) => {
        const nowMs = clock();
        refuseBeyondHorizon(nowMs, { 'query.from': query.from, 'query.to': query.to });
        const fromS = query.from === undefined ? nowMs / 1000 : Date.parse(query.from) / 1000;
        const toS = query.to === undefined ? Number.POSITIVE_INFINITY : Date.parse(query.to) / 1000;
        const plan = visible(await readSchedule(ledger, nowMs), caller);
        const within = plan.leases.filter(({ startAtS, endAtS }) => endAtS > fromS && startAtS < toS);
        return json(200, {
          at: isoFromSeconds(nowMs / 1000),
          from: isoFromSeconds(fromS),
          to: query.to === undefined ? null : isoFromSeconds(toS),
          leases: within.toSorted((a, b) => a.startAtS - b.startAtS).map(show),
          suspensions: plan.suspensions.map(({ lease, atS }) => ({ lease: lease.id, at: isoFromSeconds(atS) })),
          unplanned: plan.unplanned.length,
        });
      },
    }),
    operation({
      method: 'post',
      path: '/v1/quotes',
      id: 'createQuote',
      tag: 'leases',
      summary: 'When would this start and end, and what would it cost?',
      description:
        'Answers from the present plan; nothing is booked, so a later request may get another start. Where there are prices, they hold until `expiresAt` for one order of the same that names the quote. A standalone VM of best effort has `preemptible: false`.',
      access: 'client',
      plans: true,
      body: QuoteOrder,
      answers: { 200: { description: 'What would be promised, expected, or refused', schema: Quote } },
      problems: ['forbidden', 'image-unknown', 'amount-out-of-bounds'],
      handle: async ({ caller, body }) => {
        refuseHighPriority(caller, body.lease.priority);
        refuseBeyondHorizon(clock(), { '/lease/startAt': body.lease.startAt, '/lease/deadline': body.lease.deadline });
        const validS = config.api.BERTH_QUOTE_S;
        const { price, ...quote } = await readQuote(ledger, { owner: caller.ownerId, ...body, validS, nowMs: clock() });
        return json(200, { ...quote, price: price === null ? null : showPrice(price) });
      },
    }),
  ];
}
