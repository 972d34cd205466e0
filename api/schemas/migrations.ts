import { z } from 'zod';
import { convergenceSeconds, migratedGuests, migrationModes, migrationPhases, migrationStates } from '../../model/migration.ts';
import { bytes, time } from './common.ts';

export const MigrationOrder = z
  .strictObject({
    to: z.string().max(63).optional().meta({ description: 'The target host; without it, the site chooses' }),
    mode: z.enum(migrationModes).default('live').meta({
      description:
        'live: the memory is copied while the VM runs; cold: the VM is suspended first, unless it is already, or has ended and moves with its disks (moveDisk); disks: only its disks move, from their home to the host where it runs',
    }),
    moveDisk: z
      .boolean()
      .default(false)
      .meta({ description: 'Afterwards its disks follow the running VM, and the target becomes its home' }),
    ifNotConverging: z.enum(['rollBack', 'cold']).default('rollBack').meta({
      description:
        'For a live migration whose guest writes faster than its memory is copied: the VM remains at its host, or is suspended and its memory is copied as a file',
    }),
    convergeWithinS: z
      .int()
      .min(convergenceSeconds.min)
      .max(convergenceSeconds.max)
      .default(convergenceSeconds.default)
      .meta({ description: 'How long a live migration may copy memory before it is given up' }),
    reason: z.string().max(200).optional().meta({ description: 'A text for readers of the event' }),
  })
  .meta({ id: 'MigrationOrder' });

export const Migration = z
  .strictObject({
    id: z.string(),
    vm: z.string(),
    owner: z.string(),
    state: z.enum(migrationStates).meta({
      description: 'stuck: it is not known yet at which host the VM runs; nothing changes until the hosts have answered',
    }),
    mode: z.enum(migrationModes),
    moveDisk: z.boolean().meta({ description: 'The migration is under way until the disks have followed or failed to' }),
    ifNotConverging: z.enum(['rollBack', 'cold']),
    convergeWithinS: z.int(),
    from: z.string(),
    to: z.string().nullable().meta({ description: 'null until its admission, when the site chooses' }),
    generation: z.int(),
    workflowId: z.string(),
    waiting: z.string().nullable().meta({ description: 'Why it is not admitted yet' }),
    phases: z.array(
      z.strictObject({
        name: z.enum(migrationPhases),
        startedAt: time,
        seconds: z.number().nullable().meta({ description: 'null while the phase lasts' }),
        bytes: z.int(),
      }),
    ),
    progress: z
      .strictObject({
        processedBytes: z.int(),
        remainingBytes: z.int(),
        dirtyBytesPerS: z.number(),
        bytesPerS: z.number(),
        etaS: z.number().nullable().meta({
          description: 'null: the guest writes as fast as its memory is copied, or nothing was measured yet',
        }),
      })
      .nullable()
      .meta({
        description: 'Of the pre-copy, of the copy of a cold migration, or of the disks that follow; at most a few seconds old',
      }),
    downtimeMs: z.int().nullable(),
    bytes: bytes.meta({
      description:
        'Bytes transferred: memory, or the disks of a migration of disks; the bytes of disks that followed are in their phase',
    }),
    guest: z.enum(migratedGuests).nullable().meta({
      description:
        'Of a live migration, observed some time after its end: whether the guest agent answers at the target; silent: it did before the migration, and does not since. null: not observed',
    }),
    error: z.strictObject({ code: z.string(), message: z.string() }).nullable(),
    requestedBy: z.string(),
    reason: z.string().nullable(),
    abortRequestedAt: time.nullable(),
    createdAt: time,
    startedAt: time.nullable(),
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Migration' });
