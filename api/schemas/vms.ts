import { z } from 'zod';
import { optionalRules, ruleFields } from '../../model/placement/rules.ts';
import { vmStates } from '../../model/states.ts';
import { coldBootReasons, pausedByParties } from '../../model/vm.ts';
import { restartPolicies, vmOperationNames } from '../../model/vm-request.ts';
import { resources, time, waiting } from './common.ts';

export const Vm = z
  .strictObject({
    id: z.string(),
    owner: z.string(),
    name: z.string(),
    state: z.enum(vmStates),
    pausedBy: z.enum(pausedByParties).nullable().meta({
      description:
        'Who stopped the processors of a paused VM: its owner, its hypervisor after an I/O error, somebody at its host, or its guest, which sleeps',
    }),
    silentSince: time
      .nullable()
      .meta({ description: 'Since when the agent of its running guest does not answer; null: it does, as far as is known' }),
    resources,
    host: z.string().nullable().meta({ description: 'Where it runs or ran' }),
    home: z.string().nullable().meta({ description: 'The host whose disk holds its image' }),
    address: z.string().nullable(),
    generation: z.int(),
    task: z.string().nullable(),
    node: z.int().nullable(),
    boot: z
      .strictObject({ kind: z.enum(['warm', 'cold']), why: z.enum(coldBootReasons).nullable() })
      .nullable()
      .meta({ description: "How it booted: warm, from a template's memory, or cold, by a boot of its own, and then why" }),
    lease: z
      .strictObject({
        kind: z.enum(['reservation', 'bestEffort', 'immediate']),
        startsAt: time.nullable().meta({ description: 'Promised; null: best effort' }),
        durationS: z.int().nullable(),
        endsAt: time.nullable(),
      })
      .nullable()
      .meta({ description: 'Its own; null: it has that of its task. Without durationS the VM runs until it is deleted' }),
    restart: z
      .enum(restartPolicies)
      .nullable()
      .meta({ description: 'Whether it is booted again after its host was restarted, or it crashed; null: of a task' }),
    operation: z.enum(vmOperationNames).nullable().meta({ description: 'The requested operation that is not complete' }),
    waiting: waiting.meta({ description: 'Why it is pending: how many hosts there are, and how many failed which filter' }),
    hostKey: z.string().nullable().meta({ description: 'The public key of its sshd, as in known_hosts' }),
    removalRequestedAt: time.nullable(),
    problem: z
      .looseObject({})
      .nullable()
      .meta({ description: 'Why it is stuck, stopped or crashed, or why its last operation failed' }),
    pinned: z.boolean().meta({ description: 'The balancer never moves it' }),
    keep: z.boolean().meta({ description: 'The balancer moves it only where much more is gained than it costs' }),
    ...ruleFields,
    startedAt: time.nullable(),
    endedAt: time.nullable(),
    createdAt: time,
  })
  .meta({ id: 'Vm' });

export const VmChange = z
  .strictObject({ pinned: z.boolean().optional(), keep: z.boolean().optional(), ...optionalRules })
  .refine((change) => Object.keys(change).length > 0, { error: 'expected at least one field' })
  .meta({ id: 'VmChange', minProperties: 1 });
