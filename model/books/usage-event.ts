import { z } from 'zod';
import { services } from '../money/services.ts';

export const usageRecordedType = 'berth.vm.usageRecorded';

const time = z.iso.datetime();

export const UsageRecordedData = z
  .strictObject({
    vm: z.string(),
    owner: z.string(),
    task: z.string().nullable(),
    from: time,
    until: time,
    /** One entry for each provider at which it used something. */
    usage: z.array(
      z.strictObject({
        provider: z.string(),
        vcpuSeconds: z.number().min(0),
        memoryMiBSeconds: z.number().min(0),
        /** Of all its disks, also while it is suspended or stopped. */
        diskMiBSeconds: z.number().min(0),
      }),
    ),
  })
  .meta({
    id: 'UsageRecorded',
    description:
      'What a VM that goes on has used since its start, or since the last such event: hourly. What the event of its end says is final',
  });

export const ownerUsageTypes = { recorded: 'berth.owner.usageRecorded', unpaid: 'berth.owner.usageUnpaid' } as const;

export const OwnerUsageData = z
  .strictObject({
    owner: z.string(),
    from: time,
    until: time,
    /** Of files and logs: exact, since it grows with each change. */
    repositoryByteSeconds: z.number().min(0),
    /** Of ports to which an edge led, each by itself. */
    portSeconds: z.number().min(0),
  })
  .meta({
    id: 'OwnerUsageRecorded',
    description: 'What an owner has used besides VMs since the last such event: hourly, where it used something',
  });

/** Amounts are micro-units as decimal strings. */
export const UsageUnpaidData = z
  .strictObject({
    owner: z.string(),
    currency: z.string(),
    service: z.enum(services),
    dueMicros: z.string(),
    at: time,
  })
  .meta({ id: 'UsageUnpaid', description: "What an owner's files or ports cost is not on its account: it stays due" });
