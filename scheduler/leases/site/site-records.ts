import type { Resources } from '../../../model/host.ts';
import { earliestFitOn } from '../capacity/earliest-fit.ts';
import { type HostSpec, hostShape, type Shape } from '../lease.ts';
import {
  allocationsOn,
  ceilSeconds,
  createRecord,
  type HostRecord,
  type LeaseRecord,
  type PlanState,
  rankOf,
  setAllocations,
  vmStartAt,
} from '../plan-state.ts';
import { plannedLease, type SiteFigures, type SiteHost, type SiteLease, type SiteOperation } from './site-state.ts';

/** The planner's records of the hosts and leases that the ledger describes. */

/** How much longer the VMs of an overdue lease, or an overdue operation, are expected to last. */
const overdueS = 5;

export interface PlanContext {
  state: PlanState;
  index: ReadonlyMap<string, number>;
  /** Whether a promise of that time may be planned on a host. */
  isAvailable: (host: number, from: number, until: number) => boolean;
  /** Whether VMs can migrate from a host. */
  isReachable: (host: number) => boolean;
  figures: SiteFigures;
  now: number;
}

export const isAvailable = ({ up, vacant }: SiteHost, from: number, until: number): boolean =>
  up && (vacant === null || until <= vacant.fromS || from >= vacant.untilS);

export function hostIndex({ index }: PlanContext, host: string): number {
  const found = index.get(host);
  if (found === undefined) throw new Error(`BUG: the plan names the host ${host}, which the site does not have`);
  return found;
}

export function shapeOf(each: Resources): Shape {
  return { cpuMilli: each.vcpus * 1000, memoryMiB: each.memoryMiB, diskMiB: each.diskMiB };
}

/** The record that the planner would have of a lease if it had observed all of its events. */
export function leaseRecordOf(context: PlanContext, lease: SiteLease): LeaseRecord {
  const { state, figures, now } = context;
  const planned = plannedLease(lease, figures);
  const { startAtS } = lease;
  const made = createRecord(
    state,
    planned,
    startAtS === null ? null : { startAt: startAtS, endAt: startAtS + planned.durationS },
  );
  const leaving = lease.phase === 'leaving';
  const record: LeaseRecord = {
    ...made,
    preemptible: made.preemptible && !leaving,
    // The disk of suspended work is counted in `taken`: it remains on its host.
    shape: lease.phase === 'suspended' || lease.phase === 'migrating' ? { ...made.shape, diskMiB: 0 } : made.shape,
    remainingWorkS: Math.max(1, ceilSeconds((lease.leftS ?? lease.durationS) + figures.teardownS)),
  };
  record.rank = rankOf(record.lease, record.remainingWorkS, state.policy);
  const hosts = lease.hosts.map((host) => hostIndex(context, host));
  const firm = record.preemptible ? 'running' : 'promise';
  switch (lease.phase) {
    case 'waiting': {
      if (record.promise === null || hosts.length !== lease.nodes) return record;
      const { endAt } = record.promise;
      const from = vmStartAt(state, record);
      if (!hosts.every((host) => context.isAvailable(host, from, endAt))) return record;
      return Object.assign(record, {
        hosts,
        bound: lease.bound,
        allocations: allocationsOn(hosts, from, endAt),
      } satisfies Partial<LeaseRecord>);
    }
    case 'suspended': {
      // It migrates once at most, so that failures on the way can't move it from host to host.
      const pinned = lease.operation !== null || !hosts.every(context.isReachable);
      return Object.assign(record, { phase: 'suspended', hosts, pinned } satisfies Partial<LeaseRecord>);
    }
    case 'migrating': {
      const { fromS, untilS } = lease.operation ?? { fromS: now, untilS: now + overdueS };
      const operation = { from: fromS, planned: untilS, until: Math.max(untilS, now + overdueS) };
      return Object.assign(record, { phase: 'migrating', hosts, operation } satisfies Partial<LeaseRecord>);
    }
    case 'suspending': {
      const { fromS, untilS } = operationOf(lease);
      const operation = { from: fromS, planned: untilS, until: untilS };
      const allocations = allocationsOn(hosts, now, Math.max(untilS, now + overdueS));
      return Object.assign(record, {
        phase: 'suspending',
        hosts,
        operation,
        allocations,
        layer: 'running',
      } satisfies Partial<LeaseRecord>);
    }
    case 'resuming': {
      const { fromS, untilS } = operationOf(lease);
      const operation = { from: fromS, planned: untilS, until: untilS };
      const expectedEnd = Math.max(untilS, now + overdueS) + record.remainingWorkS;
      const allocations = allocationsOn(hosts, now, expectedEnd);
      return Object.assign(record, {
        phase: 'resuming',
        hosts,
        operation,
        runFrom: untilS,
        expectedEnd,
        allocations,
        layer: firm,
      } satisfies Partial<LeaseRecord>);
    }
    case 'running':
    case 'leaving': {
      const runFrom = lease.runFromS ?? now;
      const expectedEnd = Math.max(leaving ? now : runFrom + record.remainingWorkS, now + overdueS);
      const allocations = allocationsOn(hosts, now, expectedEnd);
      return Object.assign(record, {
        phase: 'running',
        hosts,
        bound: true,
        runFrom,
        expectedEnd,
        allocations,
        layer: firm,
      } satisfies Partial<LeaseRecord>);
    }
  }
}

function operationOf(lease: SiteLease): SiteOperation {
  if (lease.operation === null) throw new Error(`BUG: the lease ${lease.id} is ${lease.phase} without an operation`);
  return lease.operation;
}

/** A host's network transfers one migration at a time: until when the planned one does. */
function networkBusyUntil(host: SiteHost, leases: readonly SiteLease[], now: number): number {
  const ends = leases.flatMap((lease) => {
    const isOn = lease.hosts.includes(host.id) || (lease.operation?.vms.some((vm) => vm.host === host.id) ?? false);
    return lease.phase === 'migrating' && isOn ? [Math.max(lease.operation?.untilS ?? now, now + overdueS)] : [];
  });
  return Math.max(0, ...ends);
}

export function hostRecordOf(host: SiteHost, spec: HostSpec, leases: readonly SiteLease[], now: number): HostRecord {
  const ops = leases
    .flatMap(({ phase, operation }) => (phase === 'suspending' || phase === 'resuming' ? (operation?.vms ?? []) : []))
    .filter((op) => op.host === host.id && op.untilS > now)
    .map(({ fromS, untilS }) => ({ from: fromS, until: untilS }))
    .sort((a, b) => a.from - b.from);
  const { vacant } = host;
  return {
    spec,
    capacity: hostShape(spec),
    up: host.up,
    drain: vacant !== null && vacant.untilS > now ? { from: vacant.fromS, until: vacant.untilS } : null,
    memoryOps: ops,
    networkBusyUntil: networkBusyUntil(host, leases, now),
    slowness: host.slowness,
  };
}

/** Books migrating work on its target from its expected arrival on. */
export function bookMigrating(state: PlanState, now: number): void {
  for (const record of state.queue) {
    if (record.phase !== 'migrating') continue;
    const fit = earliestFitOn(state, { ...record, phase: 'suspended' }, Math.max(now, record.operation.until), record.hosts);
    if (fit !== null) setAllocations(state, record, 'booking', allocationsOn(fit.hosts, fit.from, fit.to));
  }
}
