import { z } from 'zod';
import { drainModes, drainStates, drainStrategies, suspendInPlaceChoices } from '../model/drain.ts';
import { type ErrorCode, errorTable } from '../model/errors.ts';
import {
  DrainData,
  LeaseData,
  ReservationData,
  TaskAcceptedData,
  TaskEndedData,
  TaskStartedData,
  VmCreatedData,
  VmMigratedData,
  VmRehomedData,
  VmRemovedData,
  VmRestoredData,
  VmSilentData,
  VmStartedData,
  VmStoppedData,
  VmSuspendedData,
} from '../model/events.ts';
import { convergenceSeconds, migratedGuests, migrationModes, migrationPhases, migrationStates } from '../model/migration.ts';
import { reservationStates } from '../model/reservation.ts';
import { hostStates, imageStates, taskStates, vmStates } from '../model/states.ts';
import { TaskSpec } from '../model/task.ts';
import { coldBootReasons } from '../model/vm.ts';
import { vmOperationNames } from '../model/vm-request.ts';

/** What the API answers with. Sizes carry their unit in the name; times are RFC 3339 in UTC. */
const time = z.iso.datetime().meta({ example: '2026-11-21T12:00:00.000Z' });
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const bytes = z.int().min(0);
const codes = Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]];

export const LeaseAlternative = z
  .strictObject({
    change: z.enum(['later', 'fewer', 'shorter']).meta({ description: 'What of it differs from what was asked for' }),
    startAt: time,
    nodes: z.int(),
    durationS: z.int(),
  })
  .meta({ id: 'LeaseAlternative' });

export const Problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().meta({ description: 'What was tried, what was found, what to do' }),
    code: z.enum(codes),
    errors: z.array(
      z.strictObject({
        pointer: z.string().meta({ description: 'A JSON pointer into the body, or `query.x`, `path.x`, `header.x`' }),
        detail: z.string(),
      }),
    ),
    requestId: z.string(),
    reason: z.string().optional().meta({ description: 'Of `lease-refused`' }),
    alternatives: z.array(LeaseAlternative).optional().meta({ description: 'Of `lease-refused`: what could be had' }),
    earliest: time.nullable().optional().meta({
      description: 'Of `drain-impossible`: the earliest deadline that can be promised; null: none can be',
    }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457' });

export const File = z
  .strictObject({
    id: z.string().meta({ example: 'file_01jd7x3v8ve5hb1f5wwfb2x5r1' }),
    name: z.string(),
    sizeBytes: bytes,
    sha256,
    owner: z.string(),
    createdAt: time,
  })
  .meta({ id: 'File' });

export const Task = TaskSpec.extend({
  id: z.string().meta({ example: 'task_01jd7x3v8ve5hb1f5wwfb2x5r1' }),
  owner: z.string(),
  state: z.enum(taskStates),
  workflowId: z.string().meta({ description: "The workflow that runs it, in Temporal's own UI" }),
  vms: z.array(z.string()).meta({ description: 'Its VMs, by node' }),
  hosts: z.array(z.string()).meta({ description: 'Where they run or ran, by node; empty until the task is placed' }),
  waiting: z
    .strictObject({ hosts: z.int(), failed: z.record(z.string(), z.int()) })
    .nullable()
    .meta({ description: 'Why it is queued: of so many hosts, how many failed which filter' }),
  exitCode: z.int().nullable(),
  error: z.strictObject({ code: z.enum(codes), message: z.string() }).nullable(),
  promise: z
    .strictObject({ startAt: time, endAt: time })
    .nullable()
    .meta({ description: 'When its VMs are there for it; null: best effort' }),
  outputPatterns: z.array(z.string()).meta({ description: 'The `outputs` that were asked for' }),
  outputs: z.array(z.strictObject({ path: z.string(), node: z.int(), file: z.string(), sizeBytes: bytes, sha256 })),
  timeline: z.array(
    z.strictObject({
      step: z.string(),
      startedAt: time,
      endedAt: time.nullable(),
      detail: z.string().optional().meta({ description: 'Of `boot`: how its VMs came to life, warm or cold, and then why' }),
    }),
  ),
  cancelRequestedAt: time.nullable(),
  createdAt: time,
  startedAt: time.nullable(),
  finishedAt: time.nullable(),
}).meta({ id: 'Task' });

export const Image = z
  .strictObject({
    id: z.string(),
    name: z.string(),
    digest: z.string(),
    state: z.enum(imageStates),
    owner: z.string().nullable().meta({ description: "null: the site's own" }),
    published: z.boolean().meta({ description: 'Whether every owner may use it' }),
    sizeBytes: bytes,
    virtualMiB: z.int(),
    cloudInit: z.boolean().meta({ description: 'Its VMs are given a NoCloud seed' }),
    hosts: z.array(z.string()).meta({ description: 'Hosts that have it in their cache' }),
    workflowId: z.string().nullable().meta({ description: "The workflow that built it, in Temporal's own UI" }),
    buildVm: z.string().nullable().meta({ description: 'The VM in which it is or was built' }),
    error: z.strictObject({ code: z.enum(codes), message: z.string() }).nullable(),
    timeline: z.array(z.strictObject({ step: z.string(), startedAt: time, endedAt: time.nullable() })),
    createdAt: time,
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Image' });

const resources = z.strictObject({ vcpus: z.int(), memoryMiB: z.int(), diskMiB: z.int() });

export const Host = z
  .strictObject({
    id: z.string(),
    address: z.string(),
    provider: z.string(),
    state: z.enum(hostStates),
    schedulable: z.boolean(),
    acceptsMigrations: z.boolean(),
    capacity: resources.meta({ description: 'What VMs may take together' }),
    used: resources,
    cpuModel: z.string(),
    accelerator: z.string(),
    hypervisor: z.string(),
    seenAt: time,
    createdAt: time,
  })
  .meta({ id: 'Host' });

export const HostChange = z
  .strictObject({
    schedulable: z.boolean().optional().meta({ description: 'Whether new work may be placed on it' }),
    acceptsMigrations: z.boolean().optional(),
  })
  .refine((change) => Object.keys(change).length > 0, { error: 'expected at least one field' })
  .meta({ id: 'HostChange', minProperties: 1 });

export const Vm = z
  .strictObject({
    id: z.string(),
    owner: z.string(),
    name: z.string(),
    state: z.enum(vmStates),
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
      .meta({ description: "How it came to life: warm, from a template's memory, or cold, by a boot of its own, and then why" }),
    lease: z
      .strictObject({
        kind: z.enum(['reservation', 'bestEffort', 'immediate']),
        startsAt: time.nullable().meta({ description: 'Promised; null: best effort' }),
        durationS: z.int().nullable(),
        endsAt: time.nullable(),
      })
      .nullable()
      .meta({ description: 'Its own; null: it has that of its task. Without durationS it lasts until it is deleted' }),
    operation: z.enum(vmOperationNames).nullable().meta({ description: 'What was asked of it and has yet to happen' }),
    waiting: z
      .strictObject({ hosts: z.int(), failed: z.record(z.string(), z.int()) })
      .nullable()
      .meta({ description: 'Why it is pending: of so many hosts, how many failed which filter' }),
    hostKey: z.string().nullable().meta({ description: 'The public key of its sshd, as in known_hosts' }),
    removalRequestedAt: time.nullable(),
    problem: z.looseObject({}).nullable().meta({ description: 'Why it is stuck or stopped, or what came to nothing last' }),
    startedAt: time.nullable(),
    endedAt: time.nullable(),
    createdAt: time,
  })
  .meta({ id: 'Vm' });

export const MigrationOrder = z
  .strictObject({
    to: z.string().max(63).optional().meta({ description: 'The host to go to; without it, the site chooses' }),
    mode: z.enum(migrationModes).default('live').meta({
      description:
        'live: the memory streams while the VM runs; cold: it is suspended for it, or is so already; disks: only its disks move, from their home to where it runs',
    }),
    moveDisk: z
      .boolean()
      .default(false)
      .meta({ description: 'Afterwards its disks follow it, while it runs, and the target becomes its home' }),
    ifNotConverging: z.enum(['rollBack', 'cold']).default('rollBack').meta({
      description:
        'What becomes of a live one whose guest writes faster than its memory is carried over: it stays where it was, or is suspended and goes as files',
    }),
    convergeWithinS: z
      .int()
      .min(convergenceSeconds.min)
      .max(convergenceSeconds.max)
      .default(convergenceSeconds.default)
      .meta({ description: 'For how long the memory of a live one may be carried over before that is given up' }),
    reason: z.string().max(200).optional().meta({ description: 'For those who read the event' }),
  })
  .meta({ id: 'MigrationOrder' });

export const Migration = z
  .strictObject({
    id: z.string(),
    vm: z.string(),
    owner: z.string(),
    state: z
      .enum(migrationStates)
      .meta({ description: 'stuck: it cannot be known yet where the VM runs; nothing is touched, and it is asked again' }),
    mode: z.enum(migrationModes),
    moveDisk: z.boolean().meta({ description: 'It is under way until the disks have followed, or stayed where they were' }),
    ifNotConverging: z.enum(['rollBack', 'cold']),
    convergeWithinS: z.int(),
    from: z.string(),
    to: z.string().nullable().meta({ description: 'null until its turn, where the site chooses' }),
    generation: z.int(),
    workflowId: z.string(),
    waiting: z.string().nullable().meta({ description: 'Why it is not its turn yet' }),
    phases: z.array(
      z.strictObject({
        name: z.enum(migrationPhases),
        startedAt: time,
        seconds: z.number().nullable().meta({ description: 'null while it lasts' }),
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
          description: 'null: the guest writes as fast as its memory is carried over, or there is nothing to go by yet',
        }),
      })
      .nullable()
      .meta({
        description: 'How the pre-copy goes, the copy of a cold one, or the disks that follow; a few seconds old at most',
      }),
    downtimeMs: z.int().nullable(),
    bytes: bytes.meta({
      description:
        'Memory that went over the network, or disks that moved alone; what disks took that followed is in their phase',
    }),
    guest: z.enum(migratedGuests).nullable().meta({
      description:
        'Of one that moved live, heard a while behind its end: whether its agent answers at the target; silent: it did before, and does not since. null: not asked',
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

const timeWithOffset = z.iso.datetime({ offset: true });
const confidence = z.number().min(0.6).max(0.9999);

export const DrainOrder = z
  .strictObject({
    deadline: timeWithOffset.meta({ description: 'When the host is to be empty', example: '2026-11-25T18:00:00Z' }),
    strategy: z
      .enum(drainStrategies)
      .default('auto')
      .meta({ description: 'sequential harms each VM less, parallel is done sooner; auto: sequential, if that is in time' }),
    mode: z
      .enum(drainModes)
      .default('auto')
      .meta({ description: 'cold: suspended for the journey; auto: live, unless a VM writes faster than it can be carried' }),
    moveDisks: z
      .boolean()
      .default(false)
      .meta({ description: 'The disks of VMs leave the host as well, also of those that run elsewhere: it can be switched off' }),
    suspendInPlace: z.enum(suspendInPlaceChoices).default('never').meta({
      description:
        'ifStuck: a VM that no other host can take is suspended there shortly before the deadline instead of being in the way, if it stands alone and has no promised time; it is restored when the host is opened again',
    }),
    confidence: confidence.optional().meta({ description: 'With which it is to be empty by then; 0.99 where nothing is said' }),
    returnAfter: timeWithOffset.optional().meta({ description: 'When the host takes work again and its VMs are brought back' }),
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
  .strictObject({ goBack: z.boolean().default(false).meta({ description: 'Bring back the VMs that have left' }) })
  .meta({ id: 'DrainCancel' });

export const ReservationOrder = z
  .strictObject({
    nodes: z.int().min(1).max(1000).optional().meta({ description: 'So many hosts, those that cost least to vacate' }),
    hosts: z.array(z.string().min(1).max(63)).min(1).max(1000).optional().meta({ description: 'These hosts' }),
    startAt: timeWithOffset,
    durationS: z
      .int()
      .min(1)
      .max(366 * 86_400),
    purpose: z.string().min(1).max(200),
    returnVms: z.boolean().default(false).meta({ description: 'Bring back the VMs that had to leave, at the end' }),
  })
  .refine(({ nodes, hosts }) => (nodes === undefined) !== (hosts === undefined), {
    error: 'expected either nodes or hosts',
    path: ['nodes'],
  })
  .refine(({ hosts = [] }) => new Set(hosts).size === hosts.length, { error: 'expected each host once', path: ['hosts'] })
  .meta({ id: 'ReservationOrder' });

const remainingItem = z.strictObject({ what: z.string(), why: z.string() });

export const Reservation = z
  .strictObject({
    id: z.string(),
    state: z.enum(reservationStates).meta({ description: 'active: the hosts are empty, and whoever reserved them has them' }),
    hosts: z.array(z.string()),
    startAt: time,
    endAt: time,
    durationS: z.int(),
    purpose: z.string(),
    returnVms: z.boolean(),
    workflowId: z.string(),
    drains: z.array(z.string()).meta({ description: 'What empties its hosts, once that has begun' }),
    problem: z.array(remainingItem).meta({ description: 'Why it failed' }),
    createdAt: time,
    cancelRequestedAt: time.nullable(),
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Reservation' });

const blocker = z.strictObject({ vm: z.string(), why: z.string() });

export const Drain = z
  .strictObject({
    id: z.string(),
    host: z.string(),
    state: z.enum(drainStates).meta({
      description: 'held: empty until returnAfter. Ends: empty, incomplete (remaining says why), cancelled, returned',
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
              description: 'What it usually takes behind a move until it keeps its processors as busy as before; null: not known',
            }),
          }),
        ),
        suspensions: z
          .array(z.strictObject({ vm: z.string(), meanS: z.number() }))
          .meta({ description: 'VMs that are to be suspended in place, behind the moves' }),
        leaving: z.array(z.strictObject({ vm: z.string(), by: time.nullable() })),
        blockers: z.array(blocker),
        meanS: z.number().meta({ description: 'What the rest is expected to take' }),
        boundS: z.number().meta({ description: 'What it takes at most, with the confidence' }),
        startAt: time.meta({ description: 'The latest start that is safe' }),
        expectedAt: time.nullable(),
        emptyBy: time.nullable(),
      })
      .nullable()
      .meta({ description: 'What is still to be done, as seen at the last look; null when it is over' }),
    etaAt: time.nullable().meta({ description: 'When the host is expected to be empty, or was; null: not to be foreseen' }),
    progress: z.strictObject({ moved: z.int(), moving: z.int(), left: z.int() }),
    blockers: z.array(blocker),
    remaining: z.array(z.strictObject({ what: z.string(), why: z.string() })),
    suspended: z.array(z.strictObject({ vm: z.string(), wasSuspended: z.boolean() })).meta({
      description:
        'VMs that lie suspended on the host: no domain of them is there, and they are restored when it is opened, unless they were suspended before the drain',
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
    predictedS: z.number().nullable().meta({ description: 'What was predicted when the first migration began' }),
    boundS: z.number().nullable(),
    createdAt: time,
    startedAt: time.nullable(),
    emptiedAt: time.nullable(),
    cancelRequestedAt: time.nullable(),
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Drain' });

export const Event = z
  .strictObject({
    specversion: z.literal('1.0'),
    id: z.string(),
    source: z.string(),
    type: z.string(),
    subject: z.string(),
    time,
    datacontenttype: z.literal('application/json'),
    owner: z.string(),
    sequence: z.string().meta({ description: 'Its place among all events; a cursor for `after`' }),
    data: z
      .union([
        TaskAcceptedData,
        TaskStartedData,
        TaskEndedData,
        VmMigratedData,
        DrainData,
        ReservationData,
        LeaseData,
        VmCreatedData,
        VmStartedData,
        VmSuspendedData,
        VmRestoredData,
        VmSilentData,
        VmRehomedData,
        VmStoppedData,
        VmRemovedData,
        z.looseObject({}),
      ])
      .meta({
        description:
          'By type: of berth.task.accepted, of .started, of .succeeded, .failed and .cancelled; of berth.vm.migrated, .rehomed, .silent, .created, .started, .suspended, .restored, .stopped and .removed; of berth.drain.…, berth.reservation.… and berth.lease.…; others to come',
      }),
  })
  .meta({ id: 'CloudEvent', description: 'CloudEvents 1.0, structured' });

export const Quote = z
  .strictObject({
    accepted: z.boolean(),
    startAt: time.nullable().meta({ description: 'When its VMs would be there for it' }),
    endAt: time.nullable(),
    firm: z.boolean().meta({ description: 'true: it would be promised; false: it may still change either way' }),
    refused: z.strictObject({ reason: z.string(), detail: z.string(), alternatives: z.array(LeaseAlternative) }).nullable(),
  })
  .meta({ id: 'Quote' });

export const PlannedLease = z
  .strictObject({
    lease: z.string(),
    task: z.string().nullable(),
    owner: z.string(),
    kind: z.enum(['reservation', 'bestEffort', 'immediate']),
    phase: z.enum(['waiting', 'running', 'suspending', 'suspended', 'migrating', 'resuming', 'leaving']),
    nodes: z.int(),
    hosts: z.array(z.string()).meta({ description: 'By node; of a lease that waits they may still change' }),
    startAt: time,
    endAt: time,
    firm: z.boolean().meta({ description: 'Promised; else it may still change either way' }),
  })
  .meta({ id: 'PlannedLease' });

export const Schedule = z
  .strictObject({
    at: time,
    from: time,
    to: time.nullable(),
    leases: z.array(PlannedLease),
    suspensions: z.array(z.strictObject({ lease: z.string(), at: time })).meta({ description: 'Work that is to give way' }),
    unplanned: z.int().meta({ description: 'Leases that wait and for which no place is in sight' }),
  })
  .meta({ id: 'Schedule' });
