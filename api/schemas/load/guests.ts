import { z } from 'zod';
import { loadKinds } from '../../guests/load-test.ts';
import { time, timeWithOffset } from '../common.ts';

export const ProcessesQuery = z.strictObject({
  seconds: z.coerce.number().min(0.2).max(10).default(1).meta({ description: 'Between the two readings that `cpus` comes from' }),
  limit: z.coerce.number().int().min(1).max(1000).default(50),
});

export const GuestProcesses = z
  .strictObject({
    at: time,
    tookS: z.number().meta({ description: 'From the request to its answer, the time between the readings included' }),
    loadAverages: z.array(z.number()).length(3).meta({ description: 'Over 1, 5 and 15 minutes' }),
    uptimeS: z.number(),
    memory: z.strictObject({ totalMiB: z.int(), availableMiB: z.int() }).nullable(),
    processes: z.int().meta({ description: 'How many there are' }),
    items: z
      .array(
        z.strictObject({
          pid: z.int(),
          name: z.string(),
          state: z.string().meta({ description: "The kernel's letter: R runs, S sleeps, D waits for a disk, Z has ended" }),
          cpus: z.number().meta({ description: "Processors' time a second between the readings" }),
          cpuS: z.number().meta({ description: 'Since it was started' }),
          memoryMiB: z.number(),
          threads: z.int(),
        }),
      )
      .meta({ description: 'The busiest first' }),
  })
  .meta({ id: 'GuestProcesses', description: 'As the guest itself says it, which may be anything' });

export const loadTestLimits = { seconds: 3600, startsWithinS: 60, cpus: 64, memoryMiB: 65_536 } as const;

export const LoadTestOrder = z
  .strictObject({
    kind: z.enum(loadKinds).default('processors').meta({
      description: '`processors`: kept busy; `memory`: held; `disk`: written to /tmp again and again',
    }),
    cpus: z.number().min(0.05).max(loadTestLimits.cpus).default(1).meta({
      description: 'Of `processors`: how many, in hundredths; a part of one is busy for that part of each second',
    }),
    memoryMiB: z.int().min(1).max(loadTestLimits.memoryMiB).default(64).meta({ description: 'Of `memory` and `disk`' }),
    seconds: z.int().min(1).max(loadTestLimits.seconds).default(60),
    startAt: timeWithOffset
      .optional()
      .meta({ description: "When it begins by the guest's clock, within a minute; now unless said" }),
  })
  .meta({ id: 'LoadTestOrder' });

export const LoadTestResult = z
  .strictObject({
    kind: z.enum(loadKinds),
    startedAt: time,
    endedAt: time,
    seconds: z.number().meta({ description: 'From the request to its end in the guest' }),
    cpuS: z.number().nullable().meta({ description: "Processors' time that it took, as the guest says; null: it does not say" }),
    exitCode: z.int().nullable().meta({ description: '0: it has run to its end' }),
    message: z.string().nullable().meta({ description: 'Why it has not' }),
  })
  .meta({ id: 'LoadTestResult' });
