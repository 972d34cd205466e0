import type { EmitAction } from './actions.ts';
import { earliestFit, earliestFitOn } from './capacity/earliest-fit.ts';
import type { FreeSlots } from './capacity/free-slots.ts';
import { allocationsOn, ceilSeconds, type LeaseRecord, mayUse, type PlanState, setAllocations } from './plan-state.ts';

/** Seconds to send the memory of a suspended VM to another host, and its disk where the policy says so. */
function migrationS(state: PlanState, record: LeaseRecord): number {
  const { migration, networkMiBPerS } = state.policy;
  const diskMiB = migration === 'memoryAndDisk' ? state.images.migratedMiB(record) : 0;
  return ceilSeconds((record.shape.memoryMiB + diskMiB) / networkMiBPerS);
}

/**
 * Moves suspended work of one VM to a host where it can resume sooner than where it is, the migration included, and books
 * it there. A host's network transfers one migration, or one image, at a time.
 */
export function migrateSuspended(
  state: PlanState,
  record: LeaseRecord,
  now: number,
  freeSlots: FreeSlots,
  emit: EmitAction,
): boolean {
  if (state.policy.migration === 'none' || record.phase !== 'suspended' || record.pinned || record.hosts.length > 1) return false;
  const from = record.hosts[0]!;
  const isIdle = (host: number) => state.hosts[host]!.networkBusyUntil <= now && !state.images.isReceiving(host);
  const until = now + migrationS(state, record);
  if (!isIdle(from) || state.images.latestStart(state) < until) return false;
  const candidates = freeSlots
    .hostsWithSlots(record.shape)
    .filter((host) => host !== from && mayUse(state, record, host) && isIdle(host));
  const booked = record.allocations;
  // Its own booking must not count as occupied capacity on its host.
  setAllocations(state, record, 'booking', []);
  const targetFit = earliestFitOn(state, record, until, candidates);
  const currentFit = state.hosts[from]!.up ? earliestFit(state, record, now, []) : null;
  if (targetFit === null || (currentFit !== null && currentFit.from <= targetFit.from + (until - now))) {
    setAllocations(state, record, 'booking', booked);
    return false;
  }
  const to = targetFit.hosts[0]!;
  for (const host of [from, to]) state.hosts[host]!.networkBusyUntil = until;
  record.phase = 'migrating';
  record.operation = { from: now, planned: until, until };
  state.underway.add(record);
  record.hosts = targetFit.hosts;
  state.images.onMigrated(record);
  setAllocations(state, record, 'booking', allocationsOn(targetFit.hosts, targetFit.from, targetFit.to));
  for (const host of [to, ...booked.map(({ host }) => host)]) freeSlots.refreshHost(host);
  const vms = [{ vm: 0, from: state.hosts[from]!.spec.id, to: state.hosts[to]!.spec.id }];
  emit({ kind: 'migrate', lease: record.lease.id, fromS: now, untilS: until, vms });
  return true;
}
