import type { Lease } from '../../leases/lease.ts';
import type { ImageDelivery, LeaseRecord, PlanState } from '../../leases/plan-state.ts';
import { type ImageStore, imageMiB } from './image-store.ts';
import { latestTransferStarts, transfersFitInTime } from './image-transfers.ts';

/** A repository that sends images over one link, one at a time; hosts cache them, or each lease needs its own copy. */
export class RepositoryDelivery implements ImageDelivery {
  readonly areInPlace = false;
  readonly store: ImageStore;

  constructor(store: ImageStore) {
    this.store = store;
  }

  sizeRefusal(lease: Lease): string | null {
    const { cacheMiB } = this.store.policy;
    const sizeMiB = imageMiB(lease);
    if (cacheMiB === 0 || sizeMiB <= cacheMiB) return null;
    return `the image has ${sizeMiB} MiB, a host's cache ${cacheMiB} MiB`;
  }

  isAtHost(record: LeaseRecord, host: number, now: number): boolean {
    if (imageMiB(record.lease) === 0) return true;
    const { policy, caches } = this.store;
    if (policy.cacheMiB > 0) return caches[host]!.some(({ image, readyAt }) => image === record.lease.image && readyAt <= now);
    const { transferUntil, copies } = this.store.of(record);
    return transferUntil === null && copies.includes(host);
  }

  transferS(record: LeaseRecord): number {
    return this.store.transferS(record);
  }

  linkFreeAt(now: number): number {
    return Math.max(now, this.store.transfer?.until ?? now);
  }

  fitInTime(state: PlanState, extra: LeaseRecord, now: number): boolean {
    return transfersFitInTime(state, this.store, extra, now);
  }

  latestStart(state: PlanState): number {
    return latestTransferStarts(state, this.store)[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  isReceiving(host: number): boolean {
    return this.store.transfer?.hosts.includes(host) === true;
  }

  isAwaited(record: LeaseRecord): boolean {
    return this.store.of(record).transferUntil !== null;
  }

  isStaged(record: LeaseRecord): boolean {
    return record.phase === 'waiting' && this.store.of(record).copies.length > 0;
  }

  migratedMiB({ lease }: LeaseRecord): number {
    return imageMiB(lease);
  }

  onCreated(record: LeaseRecord): void {
    this.store.update(record, { backingHosts: record.hosts });
  }

  onUsed(record: LeaseRecord, now: number): void {
    for (const host of record.hosts) {
      const cached = this.store.caches[host]!.find(({ image }) => image === record.lease.image);
      if (cached !== undefined) cached.lastUsedAt = now;
    }
  }

  onMigrated(record: LeaseRecord): void {
    this.store.update(record, { backingHosts: [] });
  }

  onRequeued(record: LeaseRecord): void {
    this.store.update(record, { copies: [], backingHosts: [] });
  }

  onEnded(record: LeaseRecord): void {
    this.store.forget(record);
  }
}
