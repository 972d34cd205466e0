import { z } from 'zod';
import { hostConditions } from '../../model/host.ts';
import { loadLimits } from '../../model/load/load.ts';
import { HostLabels } from '../../model/placement/rules.ts';
import { hostStates } from '../../model/states.ts';
import { resources, time } from './common.ts';

export const Host = z
  .strictObject({
    id: z.string(),
    address: z.string(),
    provider: z.string(),
    state: z.enum(hostStates),
    schedulable: z.boolean(),
    acceptsMigrations: z.boolean(),
    conditions: z.array(z.enum(hostConditions)).meta({
      description: '`clockOff`: its clock is off by more than two seconds, and it gets no new work until that is mended',
    }),
    clockOffsetMs: z
      .int()
      .nullable()
      .meta({ description: "By how much its clock is ahead of the ledger's, at least; null: not compared yet" }),
    capacity: resources.meta({ description: 'What VMs may take together' }),
    used: resources,
    fenced: z.array(z.strictObject({ vm: z.string(), since: time })).meta({
      description:
        'VMs whose end was forced, or that left it by force, and that it has not confirmed to be gone: they count in `used`',
    }),
    cpuModel: z.string(),
    accelerator: z.string(),
    hypervisor: z.string(),
    heartbeatS: z.int().nullable().meta({ description: "Seconds between the samples of its load; null: as the site's" }),
    labels: HostLabels.meta({ description: 'Names with values, of which the rules of VMs speak' }),
    balance: z.boolean().meta({ description: 'False: the balancer moves no VM to it and none away' }),
    seenAt: time,
    createdAt: time,
  })
  .meta({ id: 'Host' });

export const HostChange = z
  .strictObject({
    schedulable: z.boolean().optional().meta({ description: 'Whether new work may be placed on it' }),
    acceptsMigrations: z.boolean().optional(),
    labels: HostLabels.optional().meta({ description: 'All of its labels: those that are missing go. No VM moves for it' }),
    balance: z.boolean().optional().meta({ description: 'Whether the balancer may move VMs to it, and away' }),
    heartbeatS: z
      .int()
      .min(loadLimits.heartbeatS.least)
      .max(loadLimits.heartbeatS.most)
      .nullable()
      .optional()
      .meta({ description: "Seconds between the samples of its load, from within ten seconds on; null: as the site's" }),
  })
  .refine((change) => Object.keys(change).length > 0, { error: 'expected at least one field' })
  .meta({ id: 'HostChange', minProperties: 1 });
