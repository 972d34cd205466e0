import type { PlanState } from '../../leases/plan-state.ts';
import type { ImageStore } from './image-store.ts';

/**
 * A host's image cache. An image in use (by VMs that run or are suspended there, or that are bound to start there) is
 * never dropped, even when the images in use exceed the limit; unused images are kept while there is space.
 */

/** Images in use on a host. */
function pinnedImages(state: PlanState, store: ImageStore, host: number): Set<string | undefined> {
  const pinned = new Set<string | undefined>();
  for (const record of state.leases.values()) {
    const { backingHosts, transferUntil } = store.of(record);
    const isComing = record.phase === 'waiting' && (record.bound || transferUntil !== null);
    if (backingHosts.includes(host) || (isComing && record.hosts.includes(host))) pinned.add(record.lease.image);
  }
  return pinned;
}

/**
 * Which images to drop so that `sizeMiB` more fit: first those that no waiting lease needs, longest unused first, then those
 * whose next user is last in the queue. Fewer than needed if the rest is in use.
 */
export function chooseEvictions(state: PlanState, store: ImageStore, host: number, sizeMiB: number): string[] {
  const { cacheMiB } = store.policy;
  const cache = store.caches[host]!;
  let total = sizeMiB;
  for (const cached of cache) total += cached.sizeMiB;
  if (total <= cacheMiB) return [];
  const pinned = pinnedImages(state, store, host);
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
    if (total <= cacheMiB) break;
    total -= candidate.sizeMiB;
    dropped.push(candidate.image);
  }
  return dropped;
}

/** The position of each image's first user in the queue; reservations come after it, as their images are sent in time. */
function nextUses(state: PlanState): Map<string | undefined, number> {
  const uses = new Map<string | undefined, number>();
  for (const [i, record] of state.queue.entries()) if (!uses.has(record.lease.image)) uses.set(record.lease.image, i);
  for (const [i, record] of state.upcoming.entries()) {
    if (!uses.has(record.lease.image)) uses.set(record.lease.image, state.queue.length + i);
  }
  return uses;
}

export function evict(store: ImageStore, host: number, image: string): void {
  store.caches[host] = store.caches[host]!.filter((cached) => cached.image !== image);
}
