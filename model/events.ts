import { z } from 'zod';
import { AccountAdjustedData, accountAdjustedType } from './books/account-event.ts';
import { BillData, billEventTypes } from './books/bill-events.ts';
import { BudgetReachedData, budgetReachedType } from './books/budget-event.ts';
import { OwnerUsageData, ownerUsageTypes, UsageRecordedData, UsageUnpaidData, usageRecordedType } from './books/usage-event.ts';
import { HostRemovedData, hostRemovedType } from './hosts/removed-event.ts';
import { BalancerData, balancerEventTypes } from './load/balancer-events.ts';
import { migrationHosts, migrationModes } from './migration.ts';
import { PortData, portEventTypes } from './network/port-events.ts';
import { pausedByParties } from './vm.ts';
import { webhookEventData } from './webhooks/webhook-events.ts';

/**
 * What outsiders hear of tasks, as the `data` of CloudEvents 1.0. Times are RFC 3339. A field is never taken away or
 * given another meaning; a new one may appear.
 */
export const taskEventTypes = {
  accepted: 'berth.task.accepted',
  started: 'berth.task.started',
  succeeded: 'berth.task.succeeded',
  failed: 'berth.task.failed',
  cancelled: 'berth.task.cancelled',
} as const;

export type TaskEventType = (typeof taskEventTypes)[keyof typeof taskEventTypes];

/** Deterministic, so that a fact is written once, however often its step is repeated. */
export function eventId(subject: string, type: string, n: number | null = null): string {
  return n === null ? `${subject}/${type}` : `${subject}/${type}/${n}`;
}

const time = z.iso.datetime();
const resources = z.strictObject({ vcpus: z.int(), memoryMiB: z.int(), diskMiB: z.int() });
const errorShape = z.strictObject({ code: z.string(), message: z.string() });

/** What billing needs of one VM of a task; the same shape as Usage in model/task.ts. */
export const UsageData = z
  .strictObject({
    vm: z.string(),
    host: z.string(),
    provider: z.string(),
    vcpus: z.int(),
    memoryMiB: z.int(),
    startedAt: time,
    endedAt: time,
    vcpuSeconds: z.number().min(0),
    memoryMiBSeconds: z.number().min(0),
  })
  .meta({ id: 'Usage' });

/** Of all disks from the start to the end, also of a VM that was suspended or stopped; events of earlier versions have it not. */
const diskMiBSeconds = z.number().min(0).optional();

const taskFields = { task: z.string(), name: z.string(), owner: z.string() };

export const TaskAcceptedData = z
  .strictObject({ ...taskFields, image: z.string(), nodes: z.int(), resources, acceptedAt: time })
  .meta({ id: 'TaskAccepted', description: 'The task has its row and its place in the queue' });

export const TaskStartedData = z
  .strictObject({
    ...taskFields,
    vms: z.array(z.strictObject({ vm: z.string(), host: z.string(), provider: z.string() })),
    startedAt: time,
  })
  .meta({ id: 'TaskStarted', description: 'Its command runs' });

export const TaskEndedData = z
  .strictObject({
    ...taskFields,
    state: z.enum(['succeeded', 'failed', 'cancelled']),
    exitCode: z.int().nullable(),
    error: z.strictObject({ code: z.string(), message: z.string() }).nullable(),
    acceptedAt: time,
    startedAt: time.nullable(),
    finishedAt: time,
    /** One entry for each VM whose domain existed. */
    usage: z.array(UsageData),
    vcpuSeconds: z.number().min(0),
    memoryMiBSeconds: z.number().min(0),
    diskMiBSeconds,
    bytesIn: z.int().min(0),
    bytesOut: z.int().min(0),
    outputs: z.int().min(0),
    skippedOutputs: z.int().min(0).optional().meta({ description: 'Files that match and were not stored' }),
  })
  .meta({ id: 'TaskEnded', description: 'The task has ended; what it used is final' });

export const vmMigratedType = 'berth.vm.migrated';

const hostRef = z.strictObject({ host: z.string(), provider: z.string() });

export const VmMigratedData = z
  .strictObject({
    vm: z.string(),
    owner: z.string(),
    task: z.string().nullable(),
    migration: z.string(),
    mode: z.enum(migrationModes),
    from: hostRef,
    to: hostRef,
    /** Where its disk is. */
    home: z.string(),
    generation: z.int(),
    requestedBy: z.string(),
    reason: z.string().nullable(),
    startedAt: time,
    migratedAt: time,
    seconds: z.number().min(0),
    /** As the source's host measured it; null when the hand-over was completed by others. */
    downtimeMs: z.int().min(0).nullable(),
    bytes: z.int().min(0),
  })
  .meta({ id: 'VmMigrated', description: 'The VM runs at another host; usage counts there from migratedAt on' });

/** What operators hear of drains. `remaining` says what is still on the host, and why. */
export const drainEventTypes = {
  accepted: 'berth.drain.accepted',
  started: 'berth.drain.started',
  emptied: 'berth.drain.emptied',
  incomplete: 'berth.drain.incomplete',
  cancelled: 'berth.drain.cancelled',
  returned: 'berth.drain.returned',
} as const;

export type DrainEventType = (typeof drainEventTypes)[keyof typeof drainEventTypes];

export const DrainData = z
  .strictObject({
    drain: z.string(),
    host: z.string(),
    state: z.string(),
    deadline: time,
    reason: z.string().nullable(),
    remaining: z.array(z.strictObject({ what: z.string(), why: z.string() })),
    suspended: z.array(z.string()).meta({ description: 'VMs that lie suspended on the host' }),
    at: time,
  })
  .meta({ id: 'DrainEvent', description: 'How the vacating of a host goes' });

/**
 * What operators hear of their levers, where no other event says it: a task ends as failed, a VM as removed, a drain as
 * incomplete or cancelled, each with the error `force-ended`. `fenced`: hosts that may still have something of it.
 */
export const forceEndedTypes = {
  migration: 'berth.migration.forceEnded',
  image: 'berth.image.forceEnded',
} as const;

const forceEnded = { owner: z.string(), fenced: z.array(z.string()), by: z.string(), at: time };

export const MigrationForceEndedData = z
  .strictObject({ migration: z.string(), vm: z.string(), vmAt: z.enum(migrationHosts), error: errorShape, ...forceEnded })
  .meta({ id: 'MigrationForceEnded', description: 'An operator has ended a migration whose outcome was unknown' });

export const ImageForceEndedData = z
  .strictObject({ image: z.string(), name: z.string(), digest: z.string(), error: errorShape, ...forceEnded })
  .meta({ id: 'ImageForceEnded', description: 'An operator has ended a build' });

/** What is heard of reservations of whole hosts; `started` hands them over. */
export const reservationEventTypes = {
  accepted: 'berth.reservation.accepted',
  started: 'berth.reservation.started',
  ended: 'berth.reservation.ended',
  failed: 'berth.reservation.failed',
  cancelled: 'berth.reservation.cancelled',
} as const;

export type ReservationEventType = (typeof reservationEventTypes)[keyof typeof reservationEventTypes];

export const ReservationData = z
  .strictObject({
    reservation: z.string(),
    hosts: z.array(z.string()),
    state: z.string(),
    startAt: time,
    endAt: time,
    purpose: z.string(),
    problem: z.array(z.strictObject({ what: z.string(), why: z.string() })),
    at: time,
  })
  .meta({ id: 'ReservationEvent', description: 'A reservation of whole hosts' });

/**
 * What is heard of leases. Of one without a promise only that its work gives way and goes on: it begins and ends with its
 * task or VM, whose events say so.
 */
export const leaseEventTypes = {
  accepted: 'berth.lease.accepted',
  started: 'berth.lease.started',
  suspended: 'berth.lease.suspended',
  resumed: 'berth.lease.resumed',
  changed: 'berth.lease.changed',
  ended: 'berth.lease.ended',
} as const;

export type LeaseEventType = (typeof leaseEventTypes)[keyof typeof leaseEventTypes];

export const LeaseData = z
  .strictObject({
    lease: z.string(),
    owner: z.string(),
    /** null: of a VM that stands alone. */
    task: z.string().nullable(),
    kind: z.enum(['reservation', 'bestEffort', 'immediate']),
    /** `changed`: no longer the interval that was promised, because its hosts were lost or late. */
    promise: z.strictObject({ startAt: time, endAt: time }).nullable(),
    /** By node; without hosts before they are placed. */
    vms: z.array(z.strictObject({ vm: z.string(), host: z.string().nullable() })),
    at: time,
  })
  .meta({ id: 'LeaseEvent', description: 'How a lease goes: promised, begun, suspended for a promise, gone on, ended' });

export type DrainData = z.infer<typeof DrainData>;

export const vmEventTypes = {
  created: 'berth.vm.created',
  started: 'berth.vm.started',
  stopped: 'berth.vm.stopped',
  crashed: 'berth.vm.crashed',
  paused: 'berth.vm.paused',
  resumed: 'berth.vm.resumed',
  removed: 'berth.vm.removed',
  suspended: 'berth.vm.suspended',
  restored: 'berth.vm.restored',
  silent: 'berth.vm.silent',
  unresponsive: 'berth.vm.unresponsive',
  responsive: 'berth.vm.responsive',
  rehomed: 'berth.vm.rehomed',
  sessionOpened: 'berth.vm.sessionOpened',
} as const;

export type VmEventType = (typeof vmEventTypes)[keyof typeof vmEventTypes];

const vmFields = {
  vm: z.string(),
  name: z.string(),
  owner: z.string(),
  /** null: a VM that stands alone. */
  task: z.string().nullable(),
  ...hostRef.shape,
  generation: z.int(),
};

export const VmSuspendedData = z
  .strictObject({
    ...vmFields,
    suspendedAt: time,
    /** Of the time since it started, moved or came back; the completion event of a task, or the end of a VM, names all. */
    usage: z.array(UsageData),
  })
  .meta({ id: 'VmSuspended', description: 'Its memory is in a file: it takes neither processors nor memory' });

export const VmRestoredData = z
  .strictObject({ ...vmFields, restoredAt: time })
  .meta({ id: 'VmRestored', description: 'It runs again; usage counts from here on' });

export const VmRehomedData = z
  .strictObject({
    ...vmFields,
    migration: z.string(),
    /** Where its disks were, and where they are: there it runs. */
    from: hostRef,
    home: z.string(),
    seconds: z.number().min(0),
    bytes: z.int().min(0),
    rehomedAt: time,
  })
  .meta({ id: 'VmRehomed', description: 'Its disks have followed it to the host where it runs' });

export const VmSessionOpenedData = z
  .strictObject({
    ...vmFields,
    key: z.string(),
    session: z.string(),
    /** A command with pipes or with a terminal, a connection to a port, or the console. */
    kind: z.enum(['pipes', 'terminal', 'connection', 'console']),
    openedAt: time,
  })
  .meta({ id: 'VmSessionOpened', description: 'Somebody with this key was let into the guest' });

export const VmSilentData = z
  .strictObject({ ...vmFields, migration: z.string(), movedAt: time, silentAt: time })
  .meta({ id: 'VmSilent', description: 'It moved, and its guest, which answered before, does not since: it may have died' });

export const VmResponsivenessData = z.strictObject({ ...vmFields, since: time }).meta({
  id: 'VmResponsiveness',
  description: 'Since when its guest does not answer, or does again. Usage counts on',
});

export const VmCreatedData = z
  .strictObject({ vm: z.string(), name: z.string(), owner: z.string(), image: z.string(), resources, createdAt: time })
  .meta({ id: 'VmCreated', description: 'A VM that stands alone has its row, and waits for a host' });

export const VmStartedData = z
  .strictObject({ ...vmFields, address: z.string(), startedAt: time })
  .meta({ id: 'VmStarted', description: 'Its guest answers with its identity; usage counts from here on' });

export const VmStoppedData = z.strictObject({ ...vmFields, error: errorShape, stoppedAt: time, usage: z.array(UsageData) }).meta({
  id: 'VmStopped',
  description:
    'Its domain ended at stoppedAt, and its disks are kept: it can be booted again. `error.code` says why: `powered-off`, `guest-crashed`, `host-restarted` or `vm-lost`',
});

export const VmPausedData = z
  .strictObject({ ...vmFields, by: z.enum(pausedByParties), pausedAt: time })
  .meta({ id: 'VmPaused', description: 'Its processors are stopped, its memory stays allocated; usage counts on' });

export const VmResumedData = z
  .strictObject({ ...vmFields, resumedAt: time })
  .meta({ id: 'VmResumed', description: 'Its processors run again' });

export const VmRemovedData = z
  .strictObject({
    ...vmFields,
    host: z.string().nullable(),
    provider: z.string().nullable(),
    /** Why, unless its owner requested it: its lease ended, or it could not be created. */
    error: errorShape.nullable(),
    startedAt: time.nullable(),
    removedAt: time,
    /** All of it, including what earlier events contained. */
    usage: z.array(UsageData),
    vcpuSeconds: z.number().min(0),
    memoryMiBSeconds: z.number().min(0),
    diskMiBSeconds,
  })
  .meta({
    id: 'VmRemoved',
    description: 'It has ended; what it used is final. Nothing of it is left, unless an operator has forced its end',
  });

export type VmCreatedData = z.infer<typeof VmCreatedData>;
export type VmStartedData = z.infer<typeof VmStartedData>;
export type VmPausedData = z.infer<typeof VmPausedData>;
export type VmResumedData = z.infer<typeof VmResumedData>;
export type VmStoppedData = z.infer<typeof VmStoppedData>;
export type VmRemovedData = z.infer<typeof VmRemovedData>;
export type VmSuspendedData = z.infer<typeof VmSuspendedData>;
export type VmRehomedData = z.infer<typeof VmRehomedData>;
export type VmSilentData = z.infer<typeof VmSilentData>;
export type VmRestoredData = z.infer<typeof VmRestoredData>;
export type VmMigratedData = z.infer<typeof VmMigratedData>;
export type TaskAcceptedData = z.infer<typeof TaskAcceptedData>;
export type TaskStartedData = z.infer<typeof TaskStartedData>;
export type TaskEndedData = z.infer<typeof TaskEndedData>;

/** The shape of `data` for each type. */
export const taskEventData = {
  'berth.task.accepted': TaskAcceptedData,
  'berth.task.started': TaskStartedData,
  'berth.task.succeeded': TaskEndedData,
  'berth.task.failed': TaskEndedData,
  'berth.task.cancelled': TaskEndedData,
} as const satisfies Record<TaskEventType, z.ZodType>;

export const vmEventData = {
  'berth.vm.created': VmCreatedData,
  'berth.vm.started': VmStartedData,
  'berth.vm.stopped': VmStoppedData,
  'berth.vm.crashed': VmStoppedData,
  'berth.vm.paused': VmPausedData,
  'berth.vm.resumed': VmResumedData,
  'berth.vm.removed': VmRemovedData,
  'berth.vm.suspended': VmSuspendedData,
  'berth.vm.restored': VmRestoredData,
  'berth.vm.silent': VmSilentData,
  'berth.vm.unresponsive': VmResponsivenessData,
  'berth.vm.responsive': VmResponsivenessData,
  'berth.vm.rehomed': VmRehomedData,
  'berth.vm.sessionOpened': VmSessionOpenedData,
} as const satisfies Record<VmEventType, z.ZodType>;

const everyOf = <T extends string, D>(types: Record<string, T>, data: D): Record<T, D> =>
  Object.fromEntries(Object.values(types).map((type) => [type, data])) as Record<T, D>;

/** The shape of `data` of every event that the ledger writes. */
export const eventData = {
  ...taskEventData,
  ...vmEventData,
  [vmMigratedType]: VmMigratedData,
  ...everyOf(leaseEventTypes, LeaseData),
  ...everyOf(drainEventTypes, DrainData),
  ...everyOf(reservationEventTypes, ReservationData),
  [forceEndedTypes.migration]: MigrationForceEndedData,
  [forceEndedTypes.image]: ImageForceEndedData,
  [hostRemovedType]: HostRemovedData,
  [accountAdjustedType]: AccountAdjustedData,
  ...everyOf(portEventTypes, PortData),
  ...everyOf(billEventTypes, BillData),
  [budgetReachedType]: BudgetReachedData,
  [usageRecordedType]: UsageRecordedData,
  [ownerUsageTypes.recorded]: OwnerUsageData,
  [ownerUsageTypes.unpaid]: UsageUnpaidData,
  ...everyOf(balancerEventTypes, BalancerData),
  ...webhookEventData,
};

export type EventType = keyof typeof eventData;
export type EventData<T extends EventType> = z.infer<(typeof eventData)[T]>;
