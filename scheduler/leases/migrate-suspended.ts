import type { Action } from './actions.ts';
import { earliestFit, earliestFitOn } from './capacity/earliest-fit.ts';
import type { FreeSlots } from './capacity/free-slots.ts';
import { latestTransferStarts } from './images/image-transfers.ts';
import { allocationsOn, ceilSeconds, type LeaseRecord, type PlanState, setAllocations } from './plan-state.ts';

/** Sending the memory of a suspended VM to another host, and its disk where that is not shared. */
function migrationS(state: PlanState, record: LeaseRecord): number {
  const { migration, networkMiBPerS, images } = state.policy;
  const disk = migration === 'memoryAndDisk' && images !== null ? record.lease.imageMiB : 0;
  return ceilSeconds((record.shape.memoryMiB + disk) / networkMiBPerS);
}

/**
 * Moves suspended work of one VM to a host where it can go on sooner than where it is, the move included. Its place
 * there is kept for it. A host's network carries one migration, or one image, at a time.
 */
export function migrateSuspended(
  state: PlanState,
  record: LeaseRecord,
  now: number,
  freeSlots: FreeSlots,
  emit: (action: Action) => void,
): boolean {
  if (state.policy.migration === 'none' || record.phase !== 'suspended' || record.pinned || record.hosts.length > 1) return false;
  const from = record.hosts[0]!;
  const idle = (host: number) => state.hosts[host]!.networkBusyUntil <= now && state.transfer?.hosts.includes(host) !== true;
  const until = now + migrationS(state, record);
  if (!idle(from) || (latestTransferStarts(state)[0]?.at ?? Number.POSITIVE_INFINITY) < until) return false;
  const candidates = freeSlots.hostsWithSlots(record.shape).filter((host) => host !== from && idle(host));
  const booked = record.allocations;
  // What is kept for it at home is no reason to go away.
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
  record.backingImageHosts = [];
  setAllocations(state, record, 'booking', allocationsOn(targetFit.hosts, targetFit.from, targetFit.to));
  for (const host of [to, ...booked.map((claim) => claim.host)]) freeSlots.refreshHost(host);
  const vms = [{ vm: 0, from: state.hosts[from]!.spec.id, to: state.hosts[to]!.spec.id }];
  emit({ kind: 'migrate', lease: record.lease.id, fromS: now, untilS: until, vms });
  return true;
}

export function onMigrated(state: PlanState, record: LeaseRecord): void {
  state.underway.delete(record);
  record.phase = 'suspended';
}
