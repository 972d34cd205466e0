import { z } from 'zod';
import { codes, time } from './common.ts';
import { LeaseAlternative } from './leases.ts';

export const Problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().meta({ description: 'What was tried, what was found, and what to do' }),
    code: z.enum(codes),
    errors: z.array(
      z.strictObject({
        pointer: z.string().meta({ description: 'A JSON pointer into the body, or `query.x`, `path.x`, `header.x`' }),
        detail: z.string(),
      }),
    ),
    requestId: z.string(),
    reason: z.string().optional().meta({ description: 'Of `lease-refused`' }),
    alternatives: z.array(LeaseAlternative).optional().meta({ description: 'Of `lease-refused`: intervals that are available' }),
    lost: z
      .strictObject({ tasks: z.array(z.string()), vms: z.array(z.string()), images: z.array(z.string()) })
      .optional()
      .meta({ description: 'Of `confirmation-needed`: what ends with the host' }),
    token: z.string().optional().meta({ description: 'Of `confirmation-needed`: confirms just that' }),
    earliest: time.nullable().optional().meta({
      description: 'Of `drain-impossible`: the earliest deadline that can be promised; null: none can be',
    }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457' });
