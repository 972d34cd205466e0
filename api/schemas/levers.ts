import { z } from 'zod';
import { migrationHosts } from '../../model/migration.ts';

const reason = z.string().max(200).optional().meta({ description: 'For those who read the error and the events' });

export const ForceEndOrder = z.strictObject({ reason }).meta({ id: 'ForceEndOrder' });

export const MigrationForceEndOrder = z
  .strictObject({
    reason,
    vmAt: z.enum(migrationHosts).meta({ description: 'Where the VM is, as the operator has found it: the other host is fenced' }),
  })
  .meta({ id: 'MigrationForceEndOrder' });

export const HostRemovalQuery = z.strictObject({
  declaredLost: z
    .enum(['true'])
    .optional()
    .meta({ description: 'The machine or its disk is gone for good: what was on it ends with it' }),
  confirm: z.string().max(64).optional().meta({ description: 'The token of the refusal that says what is lost' }),
});
