import type { SimulatedAction } from '../actions.ts';
import type { TraceLease } from '../trace.ts';
import { type AuditContext, checkOneAtATime, toleranceS } from './context.ts';

/** The repository's link sends one image at a time, no faster than its rate. */
export function checkImageLink({ schedule, report }: AuditContext): void {
  const { images } = schedule.policy;
  const transfers = schedule.actions.filter((action) => action.kind === 'transfer');
  if (images === null) {
    if (transfers.length > 0) report('images are sent though they are in place');
    return;
  }
  for (const transfer of transfers) {
    if (transfer.untilS - transfer.fromS < transfer.imageMiB / images.rateMiBPerS - toleranceS) {
      report(`${transfer.image} is sent faster than the link can at ${transfer.fromS}`);
    }
    if (!images.shared && transfer.leases.length !== 1) report(`the transfer at ${transfer.fromS} is shared`);
  }
  const list = transfers.map(({ fromS, untilS, leases }) => ({ from: fromS, to: untilS, lease: leases.join(' ') }));
  checkOneAtATime(report, 'the link sends', list);
}

/** Every VM starts on a host that has its image; caches are within their limit. */
export function checkImages(context: AuditContext): void {
  const { trace, schedule, report } = context;
  const { images } = schedule.policy;
  if (images === null) return;
  const leases = new Map(trace.leases.map((lease) => [lease.id, lease]));
  const caches = new Map<string, Map<string, number>>(); // host → image → from when on
  const copies = new Map<string, { hosts: string[]; from: number }>(); // lease → its own copies
  for (const action of schedule.actions) {
    if (action.kind === 'evict') {
      if (caches.get(action.host)?.delete(action.image) !== true)
        report(`${action.host} drops ${action.image}, which it does not have`);
    } else if (action.kind === 'transfer') {
      for (const id of action.leases) {
        const lease = leases.get(id)!;
        if (lease.image !== action.image || lease.imageMiB !== action.imageMiB) report(`${id} is sent another image`);
        copies.set(id, { hosts: action.hosts, from: action.untilS });
      }
      if (images.cacheMiB > 0)
        for (const host of action.hosts) addToCache(context, caches, host, action, images.cacheMiB, leases);
    } else if (action.kind === 'start') {
      const lease = leases.get(action.lease)!;
      if (lease.imageMiB === 0) continue;
      for (const host of action.hosts) {
        const from = images.cacheMiB > 0 ? caches.get(host)?.get(lease.image) : ownCopy(copies.get(lease.id), host);
        if (from === undefined || from > action.fromS + toleranceS) report(`${lease.id} starts on ${host} without its image`);
      }
      copies.delete(lease.id); // its disks have changed the copy
    }
  }
}

function ownCopy(copy: { hosts: string[]; from: number } | undefined, host: string): number | undefined {
  return copy?.hosts.includes(host) === true ? copy.from : undefined;
}

function addToCache(
  { schedule, byLease, report }: AuditContext,
  caches: Map<string, Map<string, number>>,
  host: string,
  transfer: Extract<SimulatedAction, { kind: 'transfer' }>,
  limitMiB: number,
  leases: ReadonlyMap<string, TraceLease>,
): void {
  const cache = caches.get(host) ?? new Map<string, number>();
  caches.set(host, cache);
  cache.set(transfer.image, transfer.untilS);
  const sizes = new Map([...leases.values()].map((lease) => [lease.image, lease.imageMiB]));
  const total = [...cache.keys()].reduce((sum, image) => sum + sizes.get(image)!, 0);
  if (total <= limitMiB + toleranceS) return;
  // Only images in use may exceed the limit: those of VMs that run, are suspended or will start there.
  const inUse = new Set([transfer.image]);
  for (const [id, lease] of leases) {
    const ended = schedule.endedAtS.get(id) ?? Number.POSITIVE_INFINITY;
    if (ended > transfer.fromS && byLease.get(id)?.some((action) => action.kind === 'start' && action.hosts.includes(host))) {
      inUse.add(lease.image);
    }
  }
  const idle = [...cache.keys()].filter((image) => !inUse.has(image));
  if (idle.length > 0) report(`${host} keeps ${total} MiB of images at ${transfer.fromS}, of which ${idle.join(' ')} are unused`);
}
