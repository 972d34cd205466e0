import { z } from 'zod';
import { sequence, time } from '../common.ts';

const seconds = (what: string) => z.number().min(0).meta({ description: what });

export const UsageLine = z
  .strictObject({
    id: z.string().meta({ description: 'The same each time that it is read' }),
    owner: z.string(),
    vm: z.string().nullable().meta({ description: 'null: of files, logs and published ports' }),
    task: z.string().nullable(),
    provider: z.string().nullable(),
    from: time,
    until: time,
    vcpuSeconds: seconds('Seconds × vCPUs'),
    memoryMiBSeconds: seconds('Seconds × MiB of memory'),
    diskMiBSeconds: seconds('Seconds × MiB of disks, also while it is suspended or stopped'),
    repositoryByteSeconds: seconds('Seconds × bytes of files and logs'),
    portSeconds: seconds('Seconds in which an edge led to a port, of each port'),
  })
  .meta({ id: 'UsageLine', description: 'Usage of an interval; no other line has a part of it' });

export const UsagePage = z.strictObject({
  items: z.array(UsageLine),
  next: z.string().meta({ description: 'The cursor for the next call' }),
  more: z.boolean().meta({ description: 'There is more than this page: call again at once' }),
});

export const UsageBatch = z.array(
  z
    .strictObject({
      specversion: z.literal('1.0'),
      id: z.string(),
      source: z.string(),
      type: z.enum(['berth.usage.vm', 'berth.usage.owner']),
      subject: z.string().meta({ description: 'The owner' }),
      time,
      datacontenttype: z.literal('application/json'),
      data: z.record(z.string(), z.union([z.string(), z.number(), z.null()])),
    })
    .meta({ id: 'UsageCloudEvent' }),
);

export const UsageQuery = z.strictObject({
  after: sequence
    .optional()
    .meta({ description: 'The `next` of the answer before; without it, from the first event on that is kept' }),
  limit: z.coerce
    .number({ error: 'expected a whole number from 1 to 1000' })
    .int({ error: 'expected a whole number from 1 to 1000' })
    .min(1)
    .max(1000)
    .default(500)
    .meta({ description: 'Of events at most; each has a line for each VM and provider' }),
  format: z.enum(['json', 'cloudevents']).default('json'),
});
