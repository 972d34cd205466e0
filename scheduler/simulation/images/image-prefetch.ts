import { earliestFit, type Fit, hostsWithImage } from '../../leases/capacity/earliest-fit.ts';
import { bind } from '../../leases/host-binding.ts';
import { allocationsOn, type LeaseRecord, type PlanState, setAllocations } from '../../leases/plan-state.ts';
import type { EmitSimulated } from '../actions.ts';
import { chooseEvictions, evict } from './image-cache.ts';
import { type ImageStore, imageMiB } from './image-store.ts';
import { latestTransferStarts } from './image-transfers.ts';

/** An image is sent for waiting work only if the work can start at most this long after the transfer. */
const maxPrefetchLeadS = 900;
/** How many leases of the queue are considered when the link is free. */
const lookahead = 64;

/**
 * Starts the next transfers while the link is free. Reservations' images are sent as late as possible; before them those of
 * the queue, in its order, each to the host where its lease can start first.
 * @returns whether hosts of leases changed
 */
export function sendNextImages(state: PlanState, store: ImageStore, now: number, emit: EmitSimulated): boolean {
  const link: LinkPass = { state, store, now, emit };
  let changed = false;
  while (store.transfer === null) {
    const first = latestTransferStarts(state, store)[0];
    if (first !== undefined && first.at <= now) {
      sendForReservation(link, first.record);
      changed = true;
      continue;
    }
    const next = nextInQueue(link);
    if (next === null) return changed;
    if (first === undefined || now + store.transferS(next.record) <= first.at) sendForQueue(link, next);
    else if (state.hosts.some((host) => host.networkBusyUntil > now)) return changed;
    else sendForReservation(link, first.record); // early, so that the link is not idle
    changed = true;
  }
  return changed;
}

interface LinkPass {
  state: PlanState;
  store: ImageStore;
  now: number;
  emit: EmitSimulated;
}

function sendForReservation(link: LinkPass, record: LeaseRecord): void {
  bind(link.state, record, link.now);
  const lacking = [...new Set(record.hosts)].filter((host) => !link.store.hasOrAwaits(record, host));
  if (lacking.length > 0) send(link, record, [record], lacking);
}

interface NextTransfer {
  record: LeaseRecord;
  fit: Fit;
}

/**
 * The first lease of the queue whose image should be sent now. Skips leases that find it in a cache soon enough, and
 * books capacity for them while the others are considered.
 */
function nextInQueue(link: LinkPass): NextTransfer | null {
  const { state, store, now } = link;
  const servedFromCache: LeaseRecord[] = [];
  let found: NextTransfer | null = null;
  for (const record of state.queue.slice(0, lookahead)) {
    if (!needsImage(store, record)) continue;
    setAllocations(state, record, 'booking', []);
    const fit = fitAfterTransfer(link, record);
    if (fit === null) continue;
    const cached = earliestFit(state, record, now, hostsWithImage(state, record, now));
    if (cached !== null && cached.from <= fit.from + store.transferS(record)) {
      setAllocations(state, record, 'booking', allocationsOn(cached.hosts, cached.from, cached.to));
      servedFromCache.push(record);
    } else if (fit.from <= now + store.transferS(record) + maxPrefetchLeadS) {
      found = { record, fit };
      break;
    }
  }
  for (const record of servedFromCache) setAllocations(state, record, 'booking', []);
  return found;
}

function needsImage(store: ImageStore, record: LeaseRecord): boolean {
  const { transferUntil, copies } = store.of(record);
  return record.phase === 'waiting' && transferUntil === null && copies.length === 0 && imageMiB(record.lease) > 0;
}

function fitAfterTransfer({ state, store, now }: LinkPass, record: LeaseRecord): Fit | null {
  const hosts = state.hosts.flatMap((host, i) => (host.up && host.networkBusyUntil <= now ? [i] : []));
  return earliestFit(state, record, now + store.transferS(record), hosts);
}

function sendForQueue(link: LinkPass, { record, fit }: NextTransfer): void {
  const { state, store, now } = link;
  const served = [record];
  book(state, record, fit);
  if (store.policy.shared) {
    for (const other of state.queue.slice(0, lookahead)) {
      if (other.lease.image !== record.lease.image || !needsImage(store, other) || other.allocations.length > 0) continue;
      const shared = fitAfterTransfer(link, other);
      if (shared === null || shared.from > now + store.transferS(record) + maxPrefetchLeadS) continue;
      book(state, other, shared);
      served.push(other);
    }
  }
  const hosts = new Set(served.flatMap((each) => each.hosts));
  const lacking = [...hosts].filter((host) => !store.hasOrAwaits(record, host)).sort((a, b) => a - b);
  send(link, record, served, lacking);
}

function book(state: PlanState, record: LeaseRecord, fit: Fit): void {
  record.hosts = fit.hosts;
  setAllocations(state, record, 'booking', allocationsOn(fit.hosts, fit.from, fit.to));
}

function send({ state, store, now, emit }: LinkPass, first: LeaseRecord, served: readonly LeaseRecord[], hosts: number[]): void {
  const until = now + store.transferS(first);
  const image = first.lease.image ?? '';
  const sizeMiB = imageMiB(first.lease);
  for (const record of served) store.update(record, { transferUntil: until });
  if (store.policy.cacheMiB === 0) store.update(first, { copies: [...new Set([...store.of(first).copies, ...hosts])] });
  else {
    for (const host of hosts) {
      for (const dropped of chooseEvictions(state, store, host, sizeMiB)) {
        evict(store, host, dropped);
        emit({ kind: 'evict', host: state.hosts[host]!.spec.id, image: dropped, atS: now });
      }
      store.caches[host]!.push({ image, sizeMiB, lastUsedAt: now, readyAt: until });
    }
  }
  const leases = served.map((record) => record.lease.id);
  store.transfer = { image, hosts, leases, until };
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  emit({ kind: 'transfer', image, imageMiB: sizeMiB, hosts: ids, leases, fromS: now, untilS: until });
}

/** The link is free again: the leases served have their image. */
export function onTransferred(state: PlanState, store: ImageStore, now: number): void {
  const { transfer } = store;
  if (transfer === null) return;
  store.transfer = null;
  for (const id of transfer.leases) {
    const record = state.leases.get(id);
    if (record !== undefined) store.update(record, { transferUntil: null });
  }
  for (const host of transfer.hosts) {
    const cached = store.caches[host]!.find((entry) => entry.image === transfer.image);
    if (cached !== undefined) {
      cached.readyAt = now;
      cached.lastUsedAt = now;
    }
  }
}
