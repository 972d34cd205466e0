import { z } from 'zod';
import { hostLoadFields, loadLimits, vmLoadFields } from '../../../model/load/load.ts';
import { time, timeWithOffset } from '../common.ts';

/** The most points of an answer, and the most rows of a list of the busiest. */
export const loadAnswerLimits = { points: 1500, busiest: 1000 } as const;

const value = z.number().nullable();
const fieldsOf = <F extends string>(fields: readonly F[]) =>
  Object.fromEntries(fields.map((field) => [field, value])) as Record<F, typeof value>;

const units =
  'Shares are 0 to 1: `use` of the host’s processors, `steal` what VMs waited for a processor as a part of what they wanted, pressures as PSI has them (`some`). `cpus` are processors’ time a second; `most…` the highest of the samples. null: not measured';

const span = {
  at: time.meta({ description: 'When the step begins' }),
  seconds: z.number().meta({ description: 'How much of the step was measured' }),
};

export const HostLoadPoint = z
  .strictObject({ ...span, ...fieldsOf(hostLoadFields) })
  .meta({ id: 'HostLoadPoint', description: units });
export const VmLoadPoint = z.strictObject({ ...span, ...fieldsOf(vmLoadFields) }).meta({ id: 'VmLoadPoint', description: units });

const series = <T extends z.ZodType>(point: T) =>
  z.strictObject({ from: time, to: time, stepS: z.int(), points: z.array(point).max(loadAnswerLimits.points) });
export const HostLoadSeries = series(HostLoadPoint).meta({ id: 'HostLoadSeries' });
export const VmLoadSeries = series(VmLoadPoint).meta({ id: 'VmLoadSeries' });

export const LoadQuery = z.strictObject({
  from: timeWithOffset.optional().meta({ description: 'By default an hour before `to`' }),
  to: timeWithOffset.optional().meta({ description: 'By default now' }),
  step: z.coerce
    .number()
    .int()
    .min(1)
    .max(90 * 86_400)
    .optional()
    .meta({
      description:
        'Seconds from one point to the next; by default some 360 points. Below a minute there are samples of the last hour alone, below an hour minutes of the last day, from an hour on 90 days',
    }),
});

export const BusiestQuery = z.strictObject({
  limit: z.coerce.number().int().min(1).max(loadAnswerLimits.busiest).default(50),
});

export const BusyHosts = z
  .strictObject({
    items: z
      .array(
        z.strictObject({
          host: z.string(),
          at: time.meta({ description: 'When its last sample ended' }),
          processors: z.number(),
          vms: z.int().meta({ description: 'How many VMs ran in it' }),
          capacity: z.strictObject({ memoryMiB: z.int(), diskMiB: z.int() }),
          processorUse: z.array(z.int()).meta({ description: 'Of each processor, in percent' }),
          load: z.strictObject(fieldsOf(hostLoadFields)).meta({ description: units }),
        }),
      )
      .max(loadAnswerLimits.busiest),
  })
  .meta({ id: 'BusyHosts' });

export const BusyVms = z
  .strictObject({
    items: z
      .array(
        z.strictObject({
          vm: z.string(),
          name: z.string(),
          host: z.string(),
          vcpus: z.int(),
          memoryMiB: z.int(),
          at: time.meta({ description: 'When its last sample ended' }),
          load: z.strictObject(fieldsOf(vmLoadFields)).meta({ description: units }),
        }),
      )
      .max(loadAnswerLimits.busiest),
  })
  .meta({ id: 'BusyVms' });

/** What a host sends. Everything is bounded: a host is of the site, its guests are not. */
const measured = z.number().min(0).max(1e12).nullable();
const vmId = z.string().regex(/^vm_[0-9a-z]{26}$/);
const agoS = z.number().min(0).max(86_400);
export const LoadBatchBody = z.strictObject({
  id: z.string().regex(/^[0-9A-Za-z-]{1,64}$/),
  processors: z.number().min(0.001).max(65_536),
  memoryMiB: z
    .int()
    .min(0)
    .max(2 ** 31 - 1),
  diskMiB: z
    .int()
    .min(0)
    .max(2 ** 31 - 1),
  processorUse: z.array(z.int().min(0).max(100)).max(loadLimits.processors),
  learned: z.record(vmId, z.tuple([z.number().min(0).max(1e6), z.number().min(0).max(1e12), z.number().min(0).max(1e12)])),
  samples: z
    .array(
      z.strictObject({
        agoS,
        durationS: z.number().gt(0).max(86_400),
        host: z.array(measured).length(hostLoadFields.length),
        vms: z.record(vmId, z.array(measured).length(vmLoadFields.length)),
      }),
    )
    .min(1)
    .max(loadLimits.samplesPerBatch)
    .refine((samples) => samples.every(({ vms }) => Object.keys(vms).length <= loadLimits.vmsPerSample), {
      error: `expected at most ${loadLimits.vmsPerSample} VMs in a sample`,
    }),
});
