import type { LeaseRecord, PlanState } from '../plan-state.ts';

/**
 * A host's image cache. An image in use (by VMs that run or are suspended there, or that are bound to start there) is
 * never dropped, even when what is in use exceeds the limit; what is not in use is kept while there is room.
 */

/** Images that the host can't do without now. */
export function pinnedImages(state: PlanState, host: number): Set<string> {
  const pinned = new Set<string>();
  for (const record of state.leases.values()) {
    const waits = record.phase === 'waiting' && (record.bound || record.transferUntil !== null);
    if (record.backingImageHosts.includes(host) || (waits && record.hosts.includes(host))) pinned.add(record.lease.image);
  }
  return pinned;
}

/**
 * Which images to drop so that `sizeMiB` more fit: those that nobody waits for, longest unused first, then those whose
 * next user is farthest off. Drops what may be dropped when that is not enough.
 */
export function chooseEvictions(state: PlanState, host: number, sizeMiB: number): string[] {
  const { images } = state.policy;
  const { cache } = state.hosts[host]!;
  let total = sizeMiB;
  for (const cached of cache) total += cached.sizeMiB;
  if (images === null || total <= images.cacheMiB) return [];
  const pinned = pinnedImages(state, host);
  const nextUse = nextUses(state);
  const candidates = cache
    .filter((cached) => !pinned.has(cached.image))
    .sort(
      (a, b) =>
        (nextUse.get(b.image) ?? Number.POSITIVE_INFINITY) - (nextUse.get(a.image) ?? Number.POSITIVE_INFINITY) ||
        a.lastUsedAt - b.lastUsedAt ||
        (a.image < b.image ? -1 : 1),
    );
  const dropped: string[] = [];
  for (const candidate of candidates) {
    if (total <= images.cacheMiB) break;
    total -= candidate.sizeMiB;
    dropped.push(candidate.image);
  }
  return dropped;
}

/** How soon each image is wanted: the place of its first user in the queue. Reservations bring or find theirs in time. */
function nextUses(state: PlanState): Map<string, number> {
  const uses = new Map<string, number>();
  for (const [i, record] of state.queue.entries()) if (!uses.has(record.lease.image)) uses.set(record.lease.image, i);
  for (const [i, record] of state.upcoming.entries()) {
    if (!uses.has(record.lease.image)) uses.set(record.lease.image, state.queue.length + i);
  }
  return uses;
}

export function evict(state: PlanState, host: number, image: string): void {
  const record = state.hosts[host]!;
  record.cache = record.cache.filter((cached) => cached.image !== image);
}

export function markImageUsed(state: PlanState, record: LeaseRecord, now: number): void {
  for (const host of record.hosts) {
    const cached = state.hosts[host]!.cache.find((entry) => entry.image === record.lease.image);
    if (cached !== undefined) cached.lastUsedAt = now;
  }
}
