import { z } from 'zod';
import { drainModes, drainStates, drainStrategies, suspendInPlaceChoices } from '../../model/drain.ts';
import { migrationStates } from '../../model/migration.ts';
import { remainingItem, time, timeWithOffset } from './common.ts';

const confidence = z.number().min(0.6).max(0.9999);

export const DrainOrder = z
  .strictObject({
    deadline: timeWithOffset.meta({ description: 'By when the host has to be empty', example: '2026-11-25T18:00:00Z' }),
    strategy: z.enum(drainStrategies).default('auto').meta({
      description: 'sequential slows each VM less, parallel completes sooner; auto: sequential, if that meets the deadline',
    }),
    mode: z.enum(drainModes).default('auto').meta({
      description: 'cold: VMs are suspended to migrate; auto: live, unless a VM writes faster than its memory can be copied',
    }),
    moveDisks: z.boolean().default(false).meta({
      description: 'The disks of VMs leave the host as well, also of those that run elsewhere, so that it can be switched off',
    }),
    suspendInPlace: z.enum(suspendInPlaceChoices).default('never').meta({
      description:
        'ifStuck: a standalone VM without promised times that no other host can take is suspended on the host shortly before the deadline, instead of being a blocker; it is restored when the host is opened again',
    }),
    confidence: confidence
      .optional()
      .meta({ description: 'The probability with which the host has to be empty by the deadline; 0.99 by default' }),
    returnAfter: timeWithOffset.optional().meta({ description: 'When the host takes work again and its VMs return' }),
    reason: z.string().max(200).optional(),
  })
  .refine((order) => !order.moveDisks || order.suspendInPlace === 'never', {
    error: 'a VM that is suspended on the host has its disks there: it goes together with no moveDisks',
    path: ['suspendInPlace'],
  })
  .refine((order) => order.returnAfter === undefined || Date.parse(order.returnAfter) >= Date.parse(order.deadline), {
    error: 'expected no time before the deadline',
    path: ['returnAfter'],
  })
  .meta({ id: 'DrainOrder' });

export const DrainChange = z.strictObject({ deadline: timeWithOffset }).meta({ id: 'DrainChange' });

export const DrainCancel = z
  .strictObject({ goBack: z.boolean().default(false).meta({ description: 'Return the VMs that have left' }) })
  .meta({ id: 'DrainCancel' });

const blocker = z.strictObject({ vm: z.string(), why: z.string() });

export const Drain = z
  .strictObject({
    id: z.string(),
    host: z.string(),
    state: z.enum(drainStates).meta({
      description:
        'held: empty until returnAfter. Terminal: empty, incomplete (with the reasons in remaining), cancelled, returned',
    }),
    deadline: time,
    strategy: z.enum(drainStrategies),
    mode: z.enum(drainModes),
    moveDisks: z.boolean(),
    suspendInPlace: z.enum(suspendInPlaceChoices),
    confidence: z.number(),
    returnAfter: time.nullable(),
    reason: z.string().nullable(),
    workflowId: z.string(),
    plan: z
      .strictObject({
        strategy: z.enum(['sequential', 'parallel']),
        moves: z.array(
          z.strictObject({
            vm: z.string(),
            to: z.string(),
            mode: z.enum(['live', 'cold', 'disks']),
            meanS: z.number(),
            recoveryS: z.number().nullable().meta({
              description:
                'The usual time after a migration until the VM keeps its processors as busy as before; null: not known',
            }),
          }),
        ),
        suspensions: z
          .array(z.strictObject({ vm: z.string(), meanS: z.number() }))
          .meta({ description: 'VMs that are planned to be suspended in place, after the migrations' }),
        leaving: z.array(z.strictObject({ vm: z.string(), by: time.nullable() })),
        blockers: z.array(blocker),
        meanS: z.number().meta({ description: 'The expected time of the remaining work' }),
        boundS: z.number().meta({ description: 'The upper bound of that time at the confidence' }),
        startAt: time.meta({ description: 'The latest safe start' }),
        expectedAt: time.nullable(),
        emptyBy: time.nullable(),
      })
      .nullable()
      .meta({ description: 'The remaining work, as of the last step of the drain; null when it is over' }),
    etaAt: time.nullable().meta({ description: 'When the host is expected to be empty, or was; null: unpredictable' }),
    progress: z.strictObject({ moved: z.int(), moving: z.int(), left: z.int() }),
    blockers: z.array(blocker),
    remaining: z.array(remainingItem),
    suspended: z.array(z.strictObject({ vm: z.string(), wasSuspended: z.boolean() })).meta({
      description:
        'VMs that are suspended on the host, without a domain; they are restored when the host is opened, unless they were suspended before the drain',
    }),
    moves: z.array(
      z.strictObject({
        migration: z.string(),
        vm: z.string(),
        from: z.string(),
        to: z.string().nullable(),
        state: z.enum(migrationStates),
      }),
    ),
    predictedS: z.number().nullable().meta({ description: 'The prediction at the start of the first migration' }),
    boundS: z.number().nullable(),
    createdAt: time,
    startedAt: time.nullable(),
    emptiedAt: time.nullable(),
    cancelRequestedAt: time.nullable(),
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Drain' });
