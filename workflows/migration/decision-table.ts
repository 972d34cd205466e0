/** What the source observes of the VM. */
export const sourceViews = ['running', 'paused', 'switching', 'gone', 'dead', 'unknown'] as const;

/** What the target observes of it. */
export const targetViews = ['absent', 'incoming', 'arrived', 'running', 'dead', 'unknown'] as const;

/** The hypervisor's migration job, which lives at the source. */
export const jobViews = ['active', 'none', 'unknown'] as const;

export type SourceView = (typeof sourceViews)[number];

export type TargetView = (typeof targetViews)[number];

export type JobView = (typeof jobViews)[number];

/**
 * The next action. The first four change something, and are followed by another observation; the others say where the
 * VM is, or that nothing may be changed.
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
 * Where a VM is, when no job is active. Rows are the source, columns the target; the reasons are in docs/migration.md.
 * Where either side is unknown, nothing is changed.
 */
const decisionTable: Record<SourceView, Row> = {
  running: {
    absent: 'stayed',
    // The hand-over did not happen: the target's domain never ran.
    incoming: 'removeTarget',
    arrived: 'removeTarget',
    running: 'alarm',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  paused: {
    absent: 'resumeSource',
    incoming: 'removeTarget',
    // The source is paused for another reason, and the target is complete: both could run, so neither is chosen.
    arrived: 'alarm',
    running: 'alarm',
    dead: 'removeTarget',
    unknown: 'observe',
  },
  switching: {
    absent: 'resumeSource',
    // The target may still get the order to finish or to abort; within its keepalive it does one of them by itself.
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
    // Its memory is incomplete, and the source can't send the rest.
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

/**
 * What differs for a guest that was paused before its migration: its source is `paused` until the hand-over and after it, and
 * neither domain is to be resumed. A target is complete, or runs, only after the source has handed over.
 */
const ofPaused: Partial<Record<SourceView, Partial<Row>>> = {
  paused: { absent: 'stayed', arrived: 'removeSource', running: 'removeSource' },
  gone: { arrived: 'committed' },
};

/**
 * The action for what both hosts observe. While a job is active or unknown, it decides the result itself.
 * @param paused the guest was paused before its migration, and remains paused
 */
export function decideMigration(source: SourceView, target: TargetView, job: JobView, paused = false): MigrationAction {
  // Two running domains are an alarm in every state of the job.
  if (source === 'running' && target === 'running') return 'alarm';
  // The job is at the source: it ends with its domain.
  if (job !== 'none' && source !== 'gone') return 'observe';
  return (paused ? ofPaused[source]?.[target] : undefined) ?? decisionTable[source][target];
}

/** A domain as its host observes it, as DomainStatus in contracts/domain.ts. */
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
    // `user`: the hypervisor has completed the domain, and left it paused as requested.
    return seen.reason === 'user' ? 'arrived' : 'incoming';
  }
  // A domain that is defined without running is not Berth's: its own are transient.
  return seen.state === 'shutoff' ? 'absent' : 'dead';
}
