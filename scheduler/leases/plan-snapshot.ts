import type { Action } from './actions.ts';
import {
  addUpcoming,
  createState,
  enqueue,
  type HostRecord,
  type LeaseRecord,
  type PlanState,
  type Transfer,
  updateSuspendAllS,
} from './plan-state.ts';
import type { Policy } from './site-policy.ts';

/** All that the planner knows, as plain JSON: what survives a restart. */
export interface Snapshot {
  version: 1;
  policy: Policy;
  hosts: HostRecord[];
  leases: LeaseRecord[];
  transfer: Transfer | null;
  pending: Action[];
  seq: number;
}

export function takeSnapshot(state: PlanState): Snapshot {
  const { policy, hosts, leases, transfer, pendingActions: pending, seq } = state;
  return structuredClone({ version: 1, policy, hosts, leases: [...leases.values()], transfer, pending, seq });
}

/** The state as it was: what is derived (the timeline, the queue's order) is worked out anew from the records. */
export function fromSnapshot(snapshot: Snapshot): PlanState {
  const { policy, hosts, leases, transfer, pending, seq } = structuredClone(snapshot);
  const state = createState(
    hosts.map((host) => host.spec),
    policy,
  );
  for (const [i, host] of hosts.entries()) {
    Object.assign(state.hosts[i]!, host);
    if (host.drain === null) continue;
    state.timeline.add('promise', [{ host: i, from: host.drain.from, to: host.drain.until }], host.capacity, 1);
  }
  for (const record of leases) {
    state.leases.set(record.lease.id, record);
    state.timeline.add(record.layer, record.allocations, record.shape, 1);
    if (record.promise !== null && record.phase === 'waiting') addUpcoming(state, record);
    else if (record.phase === 'waiting' || record.phase === 'suspended' || record.phase === 'migrating') enqueue(state, record);
    if (record.phase !== 'waiting' && record.phase !== 'suspended') state.underway.add(record);
    const displaceable = record.preemptible && (record.phase === 'running' || record.phase === 'resuming');
    if (displaceable) for (const host of record.hosts) state.preemptibleByHost[host]!.add(record);
  }
  for (const host of state.hosts.keys()) updateSuspendAllS(state, host);
  return Object.assign(state, { transfer, pendingActions: pending, seq } satisfies Partial<PlanState>);
}
