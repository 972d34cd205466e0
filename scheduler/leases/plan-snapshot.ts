import {
  addUpcoming,
  createState,
  enqueue,
  type HostRecord,
  type ImageDelivery,
  type LeaseRecord,
  type PlanState,
  updateSuspendAllS,
} from './plan-state.ts';
import type { Policy } from './site-policy.ts';

/** All that the planner knows, as plain data. */
export interface Snapshot {
  policy: Policy;
  hosts: HostRecord[];
  leases: LeaseRecord[];
  seq: number;
}

/**
 * The state that a snapshot describes, whose records become the state's own: the caller keeps none of them. The timeline and
 * the queue's order are derived from the records.
 */
export function restoreState({ policy, hosts, leases, seq }: Snapshot, images: ImageDelivery): PlanState {
  const state = createState(
    hosts.map((host) => host.spec),
    policy,
    images,
  );
  for (const [i, host] of hosts.entries()) {
    state.hosts[i] = host;
    if (host.drain === null) continue;
    state.timeline.add('promise', [{ host: i, from: host.drain.from, to: host.drain.until }], host.capacity, 1);
  }
  for (const record of leases) {
    state.leases.set(record.lease.id, record);
    state.timeline.add(record.layer, record.allocations, record.shape, 1);
    if (record.promise !== null && record.phase === 'waiting') addUpcoming(state, record);
    else if (record.phase === 'waiting' || record.phase === 'suspended' || record.phase === 'migrating') enqueue(state, record);
    if (record.phase !== 'waiting' && record.phase !== 'suspended') state.underway.add(record);
    const isPreemptible = record.preemptible && (record.phase === 'running' || record.phase === 'resuming');
    if (isPreemptible) for (const host of record.hosts) state.preemptibleByHost[host]!.add(record);
  }
  for (const host of state.hosts.keys()) updateSuspendAllS(state, host);
  state.seq = seq;
  return state;
}
