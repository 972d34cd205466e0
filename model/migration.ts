import type { HostId, Id, VmId } from './ids.ts';
import type { TaskError } from './task.ts';

export type MigrationId = Id<'migration'>;

/**
 * States of a migration. `stuck`: its outcome isn't known yet; it is still observed, and ends as one of the other two. The
 * ledger enforces the same table.
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
 * `live`: the memory is copied while the VM runs. `cold`: the VM is suspended and copied as files. `disks`: the VM remains
 * where it runs, and its disks move there from their old home.
 */
/** Where an operator has found the VM of a migration whose outcome is unknown. */
export const migrationHosts = ['source', 'target'] as const;
export type MigrationHost = (typeof migrationHosts)[number];

export const migrationModes = ['live', 'cold', 'disks'] as const;
export type MigrationMode = (typeof migrationModes)[number];

/** In the order in which they run. An abort takes effect before `switch`, and is ignored after it has begun. */
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

/** A phase that has begun; `seconds` is null while it lasts. `bytes` were sent over the network in it. */
export interface PhaseEntry {
  name: MigrationPhase;
  startedAt: string;
  seconds: number | null;
  bytes: number;
}

/**
 * The guest after a live migration. `silent`: its agent answered at the source, and doesn't at the target; `unknown`: it
 * didn't answer at the source, or couldn't be probed.
 */
export const migratedGuests = ['answers', 'silent', 'unknown'] as const;
export type MigratedGuest = (typeof migratedGuests)[number];

/** A migration's row, for its saga. The generation is that of the placement at the target. */
export interface MigrationRecord {
  id: MigrationId;
  vmId: VmId;
  owner: string;
  generation: number;
  state: MigrationState;
  from: HostId;
  to: HostId | null;
  mode: MigrationMode;
  /** Its disks move to the target as well. */
  moveDisk: boolean;
  /** When its pre-copy doesn't converge, it becomes a cold migration. */
  coldFallback: boolean;
  convergeWithinS: number;
  abortRequested: boolean;
  /** It has capacity at its target, or its VM has arrived there: a workflow that finds it so is not its first. */
  begun: boolean;
  /** The VM is at the target; its disks follow. */
  committed: boolean;
  error: TaskError | null;
}

/** Progress of a pre-copy by the hypervisor's figures, or of another copy in the same terms. */
export interface MigrationJob {
  active: boolean;
  elapsedMs: number;
  totalBytes: number;
  processedBytes: number;
  remainingBytes: number;
  /** Rate at which the guest writes, and rate of the transfer. */
  dirtyBytesPerS: number;
  bytesPerS: number;
}

export interface ConvergencePolicy {
  /** The allowed downtime at first; it grows to the default until `defaultAfterMs`. */
  initialDowntimeMs: number;
  defaultDowntimeMs: number;
  defaultAfterMs: number;
  /** Then it doubles after each step of so long, up to the maximum. */
  stepMs: number;
  maxDowntimeMs: number;
  /** After which a pre-copy that has not ended is aborted. */
  deadlineMs: number;
}

/**
 * How long a pre-copy may last, by request: much memory over a slow network takes long. The maximum is the timeout of one
 * attempt of the activity (`migrate` in workflows/durable/timeouts.ts), less a minute.
 */
export const convergenceSeconds = { min: 5, default: 120, max: 540 } as const;

export const convergencePolicy: ConvergencePolicy = {
  initialDowntimeMs: 30,
  // QEMU's own default. A shorter downtime makes a migration longer.
  defaultDowntimeMs: 300,
  defaultAfterMs: 2000,
  stepMs: 5000,
  maxDowntimeMs: 2000,
  deadlineMs: convergenceSeconds.default * 1000,
};

/**
 * A guest whose written pages QEMU may miss at each scan, which an emulated one with aligned memory is (docs/decisions/0112), is
 * allowed QEMU's own default from the start: fewer rounds are fewer scans.
 */
export function convergencePolicyFor(
  { accelerator, unalignedMemory }: { accelerator: 'kvm' | 'qemu'; unalignedMemory: boolean },
  convergeWithinS: number,
): ConvergencePolicy {
  const policy = { ...convergencePolicy, deadlineMs: convergeWithinS * 1000 };
  return accelerator === 'kvm' || unalignedMemory ? policy : { ...policy, initialDowntimeMs: policy.defaultDowntimeMs };
}

export type Convergence = { kind: 'goOn'; downtimeMs: number } | { kind: 'giveUp'; reason: string };

/** The allowed downtime after so long. Pre-copy converges when the rest can be sent within it. */
export function decideConvergence(policy: ConvergencePolicy, elapsedMs: number, job: MigrationJob): Convergence {
  if (elapsedMs >= policy.deadlineMs) {
    const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
    const why = `the guest writes ${mib(job.dirtyBytesPerS)} MiB/s, ${mib(job.bytesPerS)} MiB/s are transferred, ${mib(job.remainingBytes)} MiB are left after ${Math.round(elapsedMs / 1000)} s`;
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
 * A cold copy has three passes: the source packs the files, and the target fetches the pack and unpacks it. The progress of
 * one of them, by its host.
 */
export interface ColdCopyPass {
  kind: 'pack' | 'fetch' | 'unpack';
  /** Address of the host whose pack is fetched or unpacked; null where one is made. */
  from: string | null;
  doneBytes: number;
  totalBytes: number;
  elapsedMs: number;
}

/** A cold copy as a whole. All passes count alike; each one that has not begun is expected to last as long as the first. */
export interface ColdCopyTotals {
  /** Size of the VM's files, as far as it is known. */
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
  // Without progress there is no rate.
  const bytesPerS = part === 0 ? 0 : Math.round((remainingBytes * 1000) / Math.max(1, leftMs));
  return { active: true, elapsedMs, totalBytes, processedBytes, remainingBytes, dirtyBytesPerS: 0, bytesPerS };
}

/** Seconds until the rest is transferred; null when the guest writes as fast as that. */
export function migrationEtaS(job: MigrationJob): number | null {
  const gain = job.bytesPerS - job.dirtyBytesPerS;
  return gain <= 0 ? null : Math.ceil(job.remainingBytes / gain);
}
