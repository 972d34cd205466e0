import type { Action } from './actions.ts';
import { latestTransfers } from './link.ts';
import type { Openings } from './openings.ts';
import { earliestPlace, earliestPlaceOn } from './places.ts';
import { claimsOn, type LeaseRecord, type PlanState, setClaims, wholeSeconds } from './state.ts';

/** Sending the memory of a suspended VM to another host, and its disk where that is not shared. */
function migrationS(state: PlanState, record: LeaseRecord): number {
  const { migration, networkMiBPerS, images } = state.policy;
  const disk = migration === 'memoryAndDisk' && images !== null ? record.lease.imageMiB : 0;
  return wholeSeconds((record.shape.memoryMiB + disk) / networkMiBPerS);
}

/**
 * Moves suspended work of one VM to a host where it can go on sooner than where it is, the move included. Its place
 * there is kept for it. A host's network carries one migration, or one image, at a time.
 */
export function migrate(
  state: PlanState,
  record: LeaseRecord,
  now: number,
  openings: Openings,
  emit: (action: Action) => void,
): boolean {
  if (state.policy.migration === 'none' || record.phase !== 'suspended' || record.pinned || record.hosts.length > 1) return false;
  const from = record.hosts[0]!;
  const idle = (host: number) => state.hosts[host]!.movingUntil <= now && state.transfer?.hosts.includes(host) !== true;
  const until = now + migrationS(state, record);
  if (!idle(from) || (latestTransfers(state)[0]?.at ?? Number.POSITIVE_INFINITY) < until) return false;
  const elsewhere = openings.hosts(record.shape).filter((host) => host !== from && idle(host));
  const booked = record.claims;
  // What is kept for it at home is no reason to go away.
  setClaims(state, record, 'booking', []);
  const away = earliestPlaceOn(state, record, until, elsewhere);
  const home = state.hosts[from]!.up ? earliestPlace(state, record, now, []) : null;
  if (away === null || (home !== null && home.from <= away.from + (until - now))) {
    setClaims(state, record, 'booking', booked);
    return false;
  }
  const to = away.hosts[0]!;
  for (const host of [from, to]) state.hosts[host]!.movingUntil = until;
  record.phase = 'migrating';
  record.operation = { from: now, planned: until, until };
  state.underway.add(record);
  record.hosts = away.hosts;
  record.basedOn = [];
  setClaims(state, record, 'booking', claimsOn(away.hosts, away.from, away.to));
  for (const host of [to, ...booked.map((claim) => claim.host)]) openings.changed(host);
  const vms = [{ vm: 0, from: state.hosts[from]!.spec.id, to: state.hosts[to]!.spec.id }];
  emit({ do: 'migrate', lease: record.lease.id, fromS: now, untilS: until, vms });
  return true;
}

export function migrated(state: PlanState, record: LeaseRecord): void {
  state.underway.delete(record);
  record.phase = 'suspended';
}
