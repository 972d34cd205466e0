import { z } from 'zod';

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
