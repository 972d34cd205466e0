import { z } from 'zod';
import { time } from './common.ts';
import { QuotedPrice } from './money/prices.ts';

export const LeaseAlternative = z
  .strictObject({
    change: z.enum(['later', 'fewer', 'shorter']).meta({ description: 'What differs from the request' }),
    startAt: time,
    nodes: z.int(),
    durationS: z.int(),
  })
  .meta({ id: 'LeaseAlternative' });

export const Quote = z
  .strictObject({
    accepted: z.boolean(),
    startAt: time.nullable().meta({ description: 'When its VMs would be ready' }),
    endAt: time.nullable(),
    firm: z.boolean().meta({ description: 'true: the times would be promised; false: they may still change' }),
    price: QuotedPrice.nullable().meta({ description: 'What it costs; null: nothing has a price, or it is refused' }),
    refused: z.strictObject({ reason: z.string(), detail: z.string(), alternatives: z.array(LeaseAlternative) }).nullable(),
  })
  .meta({ id: 'Quote' });

export const PlannedLease = z
  .strictObject({
    lease: z.string(),
    task: z.string().nullable(),
    owner: z.string(),
    kind: z.enum(['reservation', 'bestEffort', 'immediate']),
    phase: z.enum(['waiting', 'running', 'suspending', 'suspended', 'migrating', 'resuming', 'leaving']),
    nodes: z.int(),
    hosts: z.array(z.string()).meta({ description: 'By node; they may still change while the lease waits' }),
    startAt: time,
    endAt: time,
    firm: z.boolean().meta({ description: 'true: the times are promised; false: they may still change' }),
  })
  .meta({ id: 'PlannedLease' });

export const Schedule = z
  .strictObject({
    at: time,
    from: time,
    to: time.nullable(),
    leases: z.array(PlannedLease),
    suspensions: z
      .array(z.strictObject({ lease: z.string(), at: time }))
      .meta({ description: 'Leases that are planned to be suspended for others' }),
    unplanned: z.int().meta({ description: 'How many waiting leases have no time in the plan' }),
  })
  .meta({ id: 'Schedule' });
