import type { Action } from './actions.ts';
import { bind } from './binding.ts';
import { drop, evictions } from './cache.ts';
import { holdsOrAwaits, latestTransfers } from './link.ts';
import { earliestPlace, type Place, readyHosts } from './places.ts';
import { claimsOn, type LeaseRecord, type PlanState, setClaims, transferS } from './state.ts';

/** Images are sent ahead for work that can start this long after they have arrived, at the latest. */
const aheadS = 900;
/** How many in the queue are looked at when the link is free. */
const lookahead = 64;

/**
 * Decides what the link sends next, if it is free. Reservations' images go last of all moments that are in time;
 * before that the queue's, in its order, each to the host where it can start first. Returns whether hosts changed.
 */
export function stage(state: PlanState, now: number, emit: (action: Action) => void): boolean {
  let changed = false;
  while (state.policy.images !== null && state.transfer === null) {
    const first = latestTransfers(state)[0];
    if (first !== undefined && first.at <= now) {
      sendForReservation(state, first.record, now, emit);
      changed = true;
      continue;
    }
    const next = nextInQueue(state, now);
    if (next === null) return changed;
    if (first === undefined || now + transferS(state, next.record) <= first.at) sendForQueue(state, next, now, emit);
    else if (state.hosts.some((host) => host.movingUntil > now)) return changed;
    else sendForReservation(state, first.record, now, emit); // rather early than an idle link
    changed = true;
  }
  return changed;
}

function sendForReservation(state: PlanState, record: LeaseRecord, now: number, emit: (action: Action) => void): void {
  bind(state, record, now);
  const lacking = [...new Set(record.hosts)].filter((host) => !holdsOrAwaits(state, record, host));
  if (lacking.length > 0) send(state, record, [record], lacking, now, emit);
}

interface Staged {
  record: LeaseRecord;
  place: Place;
}

/**
 * The first in the queue that is worth sending an image for now. Those who will find it in a cache soon enough are
 * passed over, with their place kept while the others are looked at.
 */
function nextInQueue(state: PlanState, now: number): Staged | null {
  const relying: LeaseRecord[] = [];
  let found: Staged | null = null;
  for (const record of state.queue.slice(0, lookahead)) {
    if (!wantsImage(record)) continue;
    setClaims(state, record, 'booking', []);
    const place = placeForTransfer(state, record, now);
    if (place === null) continue;
    const cached = earliestPlace(state, record, now, readyHosts(state, record, now));
    if (cached !== null && cached.from <= place.from + transferS(state, record)) {
      setClaims(state, record, 'booking', claimsOn(cached.hosts, cached.from, cached.to));
      relying.push(record);
    } else if (place.from <= now + transferS(state, record) + aheadS) {
      found = { record, place };
      break;
    }
  }
  for (const record of relying) setClaims(state, record, 'booking', []);
  return found;
}

function wantsImage(record: LeaseRecord): boolean {
  return record.phase === 'waiting' && record.transferUntil === null && record.copies.length === 0 && record.lease.imageMiB > 0;
}

function placeForTransfer(state: PlanState, record: LeaseRecord, now: number): Place | null {
  const hosts = state.hosts.flatMap((host, i) => (host.up && host.movingUntil <= now ? [i] : []));
  return earliestPlace(state, record, now + transferS(state, record), hosts);
}

function sendForQueue(state: PlanState, { record, place }: Staged, now: number, emit: (action: Action) => void): void {
  const served = [record];
  book(state, record, place);
  if (state.policy.images!.shared) {
    for (const other of state.queue.slice(0, lookahead)) {
      if (other.lease.image !== record.lease.image || !wantsImage(other) || other.claims.length > 0) continue;
      const shared = placeForTransfer(state, other, now);
      if (shared === null || shared.from > now + transferS(state, record) + aheadS) continue;
      book(state, other, shared);
      served.push(other);
    }
  }
  const hosts = new Set(served.flatMap((each) => each.hosts));
  const lacking = [...hosts].filter((host) => !holdsOrAwaits(state, record, host)).sort((a, b) => a - b);
  send(state, record, served, lacking, now, emit);
}

function book(state: PlanState, record: LeaseRecord, place: Place): void {
  record.hosts = place.hosts;
  setClaims(state, record, 'booking', claimsOn(place.hosts, place.from, place.to));
}

function send(
  state: PlanState,
  first: LeaseRecord,
  served: readonly LeaseRecord[],
  hosts: number[],
  now: number,
  emit: (action: Action) => void,
): void {
  const until = now + transferS(state, first);
  const { image, imageMiB } = first.lease;
  for (const record of served) record.transferUntil = until;
  if (state.policy.images!.cacheMiB === 0) first.copies = [...new Set([...first.copies, ...hosts])];
  else {
    for (const host of hosts) {
      for (const dropped of evictions(state, host, imageMiB)) {
        drop(state, host, dropped);
        emit({ do: 'evict', host: state.hosts[host]!.spec.id, image: dropped, atS: now });
      }
      state.hosts[host]!.cache.push({ image, sizeMiB: imageMiB, lastUsedAt: now, readyAt: until });
    }
  }
  const leases = served.map((record) => record.lease.id);
  state.transfer = { image, hosts, leases, from: now, until };
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  emit({ do: 'transfer', image, imageMiB, hosts: ids, leases, fromS: now, untilS: until });
}

/** The link is free again: the leases served have their image. */
export function transferred(state: PlanState, now: number): void {
  const { transfer } = state;
  if (transfer === null) return;
  state.transfer = null;
  for (const id of transfer.leases) {
    const record = state.leases.get(id);
    if (record !== undefined) record.transferUntil = null;
  }
  for (const host of transfer.hosts) {
    const cached = state.hosts[host]!.cache.find((entry) => entry.image === transfer.image);
    if (cached !== undefined) {
      cached.readyAt = now;
      cached.lastUsedAt = now;
    }
  }
}
