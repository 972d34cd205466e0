import type { Action } from '../actions.ts';
import { earliestFit, type Fit, hostsWithImage } from '../capacity/earliest-fit.ts';
import { bind } from '../host-binding.ts';
import { allocationsOn, type LeaseRecord, type PlanState, setAllocations, transferS } from '../plan-state.ts';
import { chooseEvictions, evict } from './image-cache.ts';
import { hasOrAwaitsImage, latestTransferStarts } from './image-transfers.ts';

/** Images are sent ahead for work that can start this long after they have arrived, at the latest. */
const maxPrefetchLeadS = 900;
/** How many in the queue are looked at when the link is free. */
const lookahead = 64;

/**
 * Decides what the link sends next, if it is free. Reservations' images go last of all moments that are in time;
 * before that the queue's, in its order, each to the host where it can start first. Returns whether hosts changed.
 */
export function sendNextImages(state: PlanState, now: number, emit: (action: Action) => void): boolean {
  let changed = false;
  while (state.policy.images !== null && state.transfer === null) {
    const first = latestTransferStarts(state)[0];
    if (first !== undefined && first.at <= now) {
      sendForReservation(state, first.record, now, emit);
      changed = true;
      continue;
    }
    const next = nextInQueue(state, now);
    if (next === null) return changed;
    if (first === undefined || now + transferS(state, next.record) <= first.at) sendForQueue(state, next, now, emit);
    else if (state.hosts.some((host) => host.networkBusyUntil > now)) return changed;
    else sendForReservation(state, first.record, now, emit); // rather early than an idle link
    changed = true;
  }
  return changed;
}

function sendForReservation(state: PlanState, record: LeaseRecord, now: number, emit: (action: Action) => void): void {
  bind(state, record, now);
  const lacking = [...new Set(record.hosts)].filter((host) => !hasOrAwaitsImage(state, record, host));
  if (lacking.length > 0) send(state, record, [record], lacking, now, emit);
}

interface NextTransfer {
  record: LeaseRecord;
  fit: Fit;
}

/**
 * The first in the queue that is worth sending an image for now. Those who will find it in a cache soon enough are
 * passed over, with their place kept while the others are looked at.
 */
function nextInQueue(state: PlanState, now: number): NextTransfer | null {
  const servedFromCache: LeaseRecord[] = [];
  let found: NextTransfer | null = null;
  for (const record of state.queue.slice(0, lookahead)) {
    if (!needsImage(record)) continue;
    setAllocations(state, record, 'booking', []);
    const place = fitAfterTransfer(state, record, now);
    if (place === null) continue;
    const cached = earliestFit(state, record, now, hostsWithImage(state, record, now));
    if (cached !== null && cached.from <= place.from + transferS(state, record)) {
      setAllocations(state, record, 'booking', allocationsOn(cached.hosts, cached.from, cached.to));
      servedFromCache.push(record);
    } else if (place.from <= now + transferS(state, record) + maxPrefetchLeadS) {
      found = { record, fit: place };
      break;
    }
  }
  for (const record of servedFromCache) setAllocations(state, record, 'booking', []);
  return found;
}

function needsImage(record: LeaseRecord): boolean {
  return (
    record.phase === 'waiting' && record.transferUntil === null && record.imageCopies.length === 0 && record.lease.imageMiB > 0
  );
}

function fitAfterTransfer(state: PlanState, record: LeaseRecord, now: number): Fit | null {
  const hosts = state.hosts.flatMap((host, i) => (host.up && host.networkBusyUntil <= now ? [i] : []));
  return earliestFit(state, record, now + transferS(state, record), hosts);
}

function sendForQueue(state: PlanState, { record, fit: place }: NextTransfer, now: number, emit: (action: Action) => void): void {
  const served = [record];
  book(state, record, place);
  if (state.policy.images!.shared) {
    for (const other of state.queue.slice(0, lookahead)) {
      if (other.lease.image !== record.lease.image || !needsImage(other) || other.allocations.length > 0) continue;
      const shared = fitAfterTransfer(state, other, now);
      if (shared === null || shared.from > now + transferS(state, record) + maxPrefetchLeadS) continue;
      book(state, other, shared);
      served.push(other);
    }
  }
  const hosts = new Set(served.flatMap((each) => each.hosts));
  const lacking = [...hosts].filter((host) => !hasOrAwaitsImage(state, record, host)).sort((a, b) => a - b);
  send(state, record, served, lacking, now, emit);
}

function book(state: PlanState, record: LeaseRecord, place: Fit): void {
  record.hosts = place.hosts;
  setAllocations(state, record, 'booking', allocationsOn(place.hosts, place.from, place.to));
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
  if (state.policy.images!.cacheMiB === 0) first.imageCopies = [...new Set([...first.imageCopies, ...hosts])];
  else {
    for (const host of hosts) {
      for (const dropped of chooseEvictions(state, host, imageMiB)) {
        evict(state, host, dropped);
        emit({ kind: 'evict', host: state.hosts[host]!.spec.id, image: dropped, atS: now });
      }
      state.hosts[host]!.cache.push({ image, sizeMiB: imageMiB, lastUsedAt: now, readyAt: until });
    }
  }
  const leases = served.map((record) => record.lease.id);
  state.transfer = { image, hosts, leases, from: now, until };
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  emit({ kind: 'transfer', image, imageMiB, hosts: ids, leases, fromS: now, untilS: until });
}

/** The link is free again: the leases served have their image. */
export function onTransferred(state: PlanState, now: number): void {
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
