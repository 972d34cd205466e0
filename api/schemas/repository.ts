import { z } from 'zod';
import { sweepHolds } from '../../model/repository/sweep.ts';
import { time } from './common.ts';

export const Repository = z
  .strictObject({
    site: z.string().meta({ description: 'The id of the site, which the ledger and the repository both have' }),
    sweeps: z.enum(['on', 'off']).meta({ description: 'Whether bytes and logs that no row names are taken out' }),
    hold: z
      .strictObject({
        reason: z.enum(sweepHolds),
        message: z.string(),
        since: time,
        kept: z.int().nullable().meta({ description: 'Files and logs in the repository; null where they were not counted' }),
        orphans: z.int().nullable().meta({ description: 'How many of them no row of the ledger names' }),
      })
      .nullable()
      .meta({ description: 'Why sweeps are off' }),
    sweptAt: time.nullable(),
    swept: z.record(z.string(), z.int().nullable()).nullable().meta({ description: 'What the last sweep did' }),
  })
  .meta({ id: 'Repository' });

export const RepositoryChange = z
  .strictObject({
    sweeps: z.enum(['on', 'off']),
    accept: z
      .enum(sweepHolds)
      .optional()
      .meta({ description: 'With `on`: the reason of the hold, which the operator has checked and accepts' }),
  })
  .meta({ id: 'RepositoryChange' });
