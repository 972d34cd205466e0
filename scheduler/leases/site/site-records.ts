import type { Resources } from '../../../model/host.ts';
import { earliestFitOn } from '../capacity/earliest-fit.ts';
import { type HostSpec, hostShape, type Shape } from '../lease.ts';
import {
  allocationsOn,
  ceilSeconds,
  createRecord,
  type HostRecord,
  type LeaseRecord,
  memoryOpS,
  type PlanState,
  rankOf,
  setAllocations,
  updateSuspendAllS,
  vmStartAt,
} from '../plan-state.ts';
import {
  plannedLease,
  type RunningVm,
  type SiteFigures,
  type SiteHost,
  type SiteLease,
  type SiteOperation,
} from './site-state.ts';

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

const plannedLeftS = (leftS: number, { teardownS }: SiteFigures): number => Math.max(1, ceilSeconds(leftS + teardownS));

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
    remainingWorkS: plannedLeftS(lease.leftS ?? lease.durationS, figures),
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

/** Operations under way on a host, and until when a migration uses its network: it transfers one at a time. */
interface HostOperations {
  memoryOps: { from: number; until: number }[];
  networkBusyUntil: number;
}

/** By host; only of leases with an operation, which are few. */
export function operationsByHost(leases: readonly SiteLease[], now: number): Map<string, HostOperations> {
  const byHost = new Map<string, HostOperations>();
  const on = (host: string): HostOperations => {
    const known = byHost.get(host) ?? { memoryOps: [], networkBusyUntil: 0 };
    byHost.set(host, known);
    return known;
  };
  for (const { phase, operation, hosts } of leases) {
    const vms = operation?.vms ?? [];
    if (phase === 'suspending' || phase === 'resuming') {
      for (const { host, fromS, untilS } of vms) if (untilS > now) on(host).memoryOps.push({ from: fromS, until: untilS });
    } else if (phase === 'migrating') {
      const until = Math.max(operation?.untilS ?? now, now + overdueS);
      for (const host of new Set([...hosts, ...vms.map((vm) => vm.host)]))
        on(host).networkBusyUntil = Math.max(on(host).networkBusyUntil, until);
    }
  }
  for (const { memoryOps } of byHost.values()) memoryOps.sort((a, b) => a.from - b.from);
  return byHost;
}

export function hostRecordOf(host: SiteHost, spec: HostSpec, operations: HostOperations | undefined, now: number): HostRecord {
  const { vacant } = host;
  return {
    spec,
    capacity: hostShape(spec),
    up: host.up,
    drain: vacant !== null && vacant.untilS > now ? { from: vacant.fromS, until: vacant.untilS } : null,
    memoryOps: operations?.memoryOps ?? [],
    networkBusyUntil: operations?.networkBusyUntil ?? 0,
    slowness: host.slowness,
    otherSuspendsS: 0,
  };
}

const expectedEndS = ({ runFromS, leftS }: RunningVm, figures: SiteFigures, now: number): number =>
  Math.max(runFromS + plannedLeftS(leftS, figures), now + overdueS);

/** Counts the work that is not among the leases, as `leaseRecordOf` counts leases that run. */
export function addRunning({ state, index, figures, now }: PlanContext, running: readonly RunningVm[]): void {
  const byHost = new Map<string, RunningVm[]>();
  for (const vm of running) {
    const list = byHost.get(vm.host);
    if (list === undefined) byHost.set(vm.host, [vm]);
    else list.push(vm);
  }
  for (const [id, vms] of byHost) {
    const host = index.get(id);
    if (host === undefined) throw new Error(`BUG: work runs on the host ${id}, which the site does not have`);
    for (const layer of ['promise', 'running'] as const) {
      const here = vms.filter(({ preemptible }) => preemptible === (layer === 'running'));
      const taken = here.map((vm) => ({ shape: shapeOf(vm.each), until: expectedEndS(vm, figures, now) }));
      state.timeline.addFrom(layer, host, now, taken);
      if (layer === 'running') for (const { shape } of taken) state.hosts[host]!.otherSuspendsS += memoryOpS(state, host, shape);
    }
    updateSuspendAllS(state, host);
  }
}

/** When the first of them ends; Infinity: there are none. */
export function nextRunningEndS(running: readonly RunningVm[], figures: SiteFigures, now: number): number {
  return running.reduce((next, vm) => Math.min(next, expectedEndS(vm, figures, now)), Number.POSITIVE_INFINITY);
}

/** Books migrating work on its target from its expected arrival on. */
export function bookMigrating(state: PlanState, now: number): void {
  for (const record of state.queue) {
    if (record.phase !== 'migrating') continue;
    const fit = earliestFitOn(state, { ...record, phase: 'suspended' }, Math.max(now, record.operation.until), record.hosts);
    if (fit !== null) setAllocations(state, record, 'booking', allocationsOn(fit.hosts, fit.from, fit.to));
  }
}
