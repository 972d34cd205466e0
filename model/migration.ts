import type { HostId, Id, VmId } from './ids.ts';
import type { TaskError } from './task.ts';

export type MigrationId = Id<'migration'>;

/**
 * States of a migration. `stuck` is one whose outcome can't be known yet: it goes on being observed, and ends as one of
 * the other two. The ledger enforces the same table.
 */
export const migrationTransitions = {
  running: ['stuck', 'succeeded', 'rolledBack'],
  stuck: ['succeeded', 'rolledBack'],
  succeeded: [],
  rolledBack: [],
} as const satisfies Record<string, readonly string[]>;

export type MigrationState = keyof typeof migrationTransitions;
export const migrationStates = Object.keys(migrationTransitions) as [MigrationState, ...MigrationState[]];

/**
 * `live`: the memory streams while the VM runs. `cold`: it is suspended, and goes as files. `disks`: the VM stays where it
 * runs, and its disks follow it there from their old home.
 */
export const migrationModes = ['live', 'cold', 'disks'] as const;
export type MigrationMode = (typeof migrationModes)[number];

/** In the order in which a migration passes through them. An abort is heard before `switch`, never after it began. */
export const migrationPhases = [
  'reserve',
  'prepare',
  // of a live one
  'preCopy',
  'switch',
  // of a cold one
  'suspend',
  'copy',
  'restore',
  'verify',
  'commit',
  'release',
  'moveDisk',
] as const;
export type MigrationPhase = (typeof migrationPhases)[number];

/** A phase that has begun; `seconds` is null while it lasts. `bytes` are those that went over the network in it. */
export interface PhaseEntry {
  name: MigrationPhase;
  startedAt: string;
  seconds: number | null;
  bytes: number;
}

/**
 * What the guest of a VM that moved live does at the target: `silent` is one whose agent answered while it was still at the
 * source; of one that didn't, or wasn't reached, it is `unknown`.
 */
export const migratedGuests = ['answers', 'silent', 'unknown'] as const;
export type MigratedGuest = (typeof migratedGuests)[number];

/** What a saga needs of a migration's row. The generation is that of the placement at the target. */
export interface MigrationRecord {
  id: MigrationId;
  vmId: VmId;
  owner: string;
  generation: number;
  state: MigrationState;
  from: HostId;
  to: HostId | null;
  mode: MigrationMode;
  /** Its disks are to follow it. */
  moveDisk: boolean;
  /** Where its pre-copy doesn't converge, it may go on as files. */
  coldFallback: boolean;
  convergeWithinS: number;
  abortRequested: boolean;
  error: TaskError | null;
}

/** What can be seen of a VM at the host that it leaves. */
export const sourceViews = ['running', 'paused', 'switching', 'gone', 'dead', 'unknown'] as const;
/** What can be seen of it at the host that it goes to. */
export const targetViews = ['absent', 'incoming', 'arrived', 'running', 'dead', 'unknown'] as const;
/** The hypervisor's migration job, which lives at the source. */
export const jobViews = ['active', 'none', 'unknown'] as const;
export type SourceView = (typeof sourceViews)[number];
export type TargetView = (typeof targetViews)[number];
export type JobView = (typeof jobViews)[number];

/**
 * What is to be done next. The first four change something, and are followed by another look; the others say where the
 * VM is, or that nothing may be touched.
 */
export const migrationActions = [
  'resumeTarget',
  'removeTarget',
  'resumeSource',
  'removeSource',
  'committed',
  'stayed',
  'lost',
  'observe',
  'alarm',
] as const;
export type MigrationAction = (typeof migrationActions)[number];

type Row = Record<TargetView, MigrationAction>;

/**
 * Where a VM is, when no job is at work any more. Rows are the source, columns the target; the reasons are in
 * docs/migration.md. What isn't known on either side is never acted upon.
 */
const decisionTable: Record<SourceView, Row> = {
  running: {
    absent: 'stayed',
    // It never took over: the hypervisor had not said so to it. What is there is a copy that nobody runs.
    incoming: 'removeTarget',
    arrived: 'removeTarget',
    running: 'alarm',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  paused: {
    absent: 'resumeSource',
    incoming: 'removeTarget',
    // The source holds back for a reason of its own, and the target is complete: both could go on, so neither is chosen.
    arrived: 'alarm',
    running: 'alarm',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  switching: {
    absent: 'resumeSource',
    // The target may still be told to finish, or to give up: it does one of them by itself within its keepalive.
    incoming: 'observe',
    arrived: 'removeSource',
    running: 'removeSource',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  gone: {
    absent: 'lost',
    incoming: 'observe',
    arrived: 'resumeTarget',
    running: 'committed',
    dead: 'lost',
    unknown: 'observe',
  },
  dead: {
    absent: 'lost',
    // Its memory is not complete, and never will be.
    incoming: 'removeTarget',
    arrived: 'removeSource',
    running: 'removeSource',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  unknown: {
    absent: 'observe',
    incoming: 'observe',
    arrived: 'observe',
    running: 'observe',
    dead: 'observe',
    unknown: 'observe',
  },
};

/** The decision for what was seen at both hosts. A job that works, or of which nothing is known, decides by itself. */
export function decideMigration(source: SourceView, target: TargetView, job: JobView): MigrationAction {
  // Two that run are two that run, whatever the job says.
  if (source === 'running' && target === 'running') return 'alarm';
  // Where the source is gone, its job is as well.
  if (job !== 'none' && source !== 'gone') return 'observe';
  return decisionTable[source][target];
}

/** What a host says of one domain: as DomainStatus in drivers/ports/index.ts; null where there is none. */
export interface ObservedDomain {
  state: string;
  /** libvirt's reason, e.g. `migrating`, `user`. */
  reason: string;
}

export function sourceView(seen: ObservedDomain | null | 'unknown'): SourceView {
  if (seen === 'unknown') return 'unknown';
  if (seen === null) return 'gone';
  if (seen.state === 'running') return 'running';
  if (seen.state === 'paused') return seen.reason === 'migrating' ? 'switching' : 'paused';
  return seen.state === 'shutoff' && seen.reason === 'migrated' ? 'gone' : 'dead';
}

export function targetView(seen: ObservedDomain | null | 'unknown'): TargetView {
  if (seen === 'unknown') return 'unknown';
  if (seen === null) return 'absent';
  if (seen.state === 'running') return 'running';
  if (seen.state === 'paused') {
    // Only what the hypervisor has finished and left paused, as it was asked to, says `user`.
    return seen.reason === 'user' ? 'arrived' : 'incoming';
  }
  // What isn't running and is defined all the same is somebody else's: ours are transient.
  return seen.state === 'shutoff' ? 'absent' : 'dead';
}

/** How the pre-copy goes, from the hypervisor's own figures. */
export interface MigrationJob {
  active: boolean;
  elapsedMs: number;
  totalBytes: number;
  processedBytes: number;
  remainingBytes: number;
  /** What the guest writes, and what the network carries. */
  dirtyBytesPerS: number;
  bytesPerS: number;
}

export interface ConvergencePolicy {
  /** The downtime that is allowed at first; it grows to the usual one until `usualAfterMs`. */
  initialDowntimeMs: number;
  defaultDowntimeMs: number;
  defaultAfterMs: number;
  /** Then it doubles, and each step is tried for so long, up to the last. */
  stepMs: number;
  maxDowntimeMs: number;
  /** When a pre-copy that hasn't ended is given up. */
  deadlineMs: number;
}

/**
 * For how long a pre-copy may go on, as whoever asks may say: much memory over a slow network takes its time. The longest
 * is what one attempt of a host's step may take (`move` in workflows/durable/timeouts.ts), less a minute.
 */
export const convergenceSeconds = { min: 5, default: 120, max: 540 } as const;

export const convergencePolicy: ConvergencePolicy = {
  initialDowntimeMs: 30,
  // QEMU's own default. Who insists on less for long pays with a longer migration.
  defaultDowntimeMs: 300,
  defaultAfterMs: 2000,
  stepMs: 5000,
  maxDowntimeMs: 2000,
  deadlineMs: convergenceSeconds.default * 1000,
};

/**
 * An emulated guest is allowed QEMU's own default from the start. On a busy machine QEMU's emulation loses sight, now and then,
 * of a page that is written just while it looks for written ones, and the guest goes on with an older one (seen: a kernel's
 * panic behind a migration). Fewer rounds are fewer such looks; a guest under KVM has its pages watched by the processor.
 */
export function convergencePolicyFor(accelerator: 'kvm' | 'qemu', convergeWithinS: number): ConvergencePolicy {
  const policy = { ...convergencePolicy, deadlineMs: convergeWithinS * 1000 };
  return accelerator === 'kvm' ? policy : { ...policy, initialDowntimeMs: policy.defaultDowntimeMs };
}

export type Convergence = { kind: 'goOn'; downtimeMs: number } | { kind: 'giveUp'; reason: string };

/** What is allowed after so long: pre-copy converges when what is left can be sent within the allowed downtime. */
export function decideConvergence(policy: ConvergencePolicy, elapsedMs: number, job: MigrationJob): Convergence {
  if (elapsedMs >= policy.deadlineMs) {
    const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
    const why = `the guest writes ${mib(job.dirtyBytesPerS)} MiB/s, ${mib(job.bytesPerS)} MiB/s are carried over, ${mib(job.remainingBytes)} MiB are left after ${Math.round(elapsedMs / 1000)} s`;
    return { kind: 'giveUp', reason: why };
  }
  return { kind: 'goOn', downtimeMs: allowedDowntimeMs(policy, elapsedMs) };
}

export function allowedDowntimeMs(policy: ConvergencePolicy, elapsedMs: number): number {
  const {
    initialDowntimeMs: first,
    defaultDowntimeMs: usual,
    defaultAfterMs: usualAfterMs,
    maxDowntimeMs: last,
    stepMs,
  } = policy;
  if (elapsedMs < usualAfterMs) return Math.round(first + ((usual - first) * elapsedMs) / usualAfterMs);
  return Math.min(last, usual * 2 ** Math.min(Math.floor((elapsedMs - usualAfterMs) / stepMs), 30));
}

/**
 * A VM that goes as files goes through three passes: its files are packed, and at the other host the pack is fetched and
 * unpacked. How far one of them is, as its host sees it.
 */
export interface ColdCopyPass {
  kind: 'pack' | 'fetch' | 'unpack';
  /** Address of the host whose pack is fetched or unpacked; null where one is made. */
  from: string | null;
  doneBytes: number;
  totalBytes: number;
  elapsedMs: number;
}

/** A cold copy as a whole. All its passes count alike; of those that have not begun, each is expected to last as long as the first one did. */
export interface ColdCopyTotals {
  /** Of the VM's files, as far as they are known. */
  totalBytes: number;
  passes: number;
  endedPasses: number;
  /** null: it is still under way. */
  firstPassMs: number | null;
  elapsedMs: number;
}

export function coldCopyJob(
  { totalBytes, passes, endedPasses, firstPassMs, elapsedMs }: ColdCopyTotals,
  pass: ColdCopyPass,
): MigrationJob {
  const part = pass.totalBytes === 0 ? 0 : Math.min(1, pass.doneBytes / pass.totalBytes);
  const processedBytes = Math.round((totalBytes * (endedPasses + part)) / passes);
  const remainingBytes = totalBytes - processedBytes;
  const passMs = pass.elapsedMs / part;
  const leftMs = passMs * (1 - part) + (firstPassMs ?? passMs) * (passes - endedPasses - 1);
  // Nothing to go by as long as nothing is done.
  const bytesPerS = part === 0 ? 0 : Math.round((remainingBytes * 1000) / Math.max(1, leftMs));
  return { active: true, elapsedMs, totalBytes, processedBytes, remainingBytes, dirtyBytesPerS: 0, bytesPerS };
}

/** Seconds until what is left has been carried over; null when the guest writes as fast as that. */
export function migrationEtaS(job: MigrationJob): number | null {
  const gain = job.bytesPerS - job.dirtyBytesPerS;
  return gain <= 0 ? null : Math.ceil(job.remainingBytes / gain);
}
