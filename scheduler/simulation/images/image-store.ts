import type { LeaseRecord } from '../../leases/plan-state.ts';
import type { ImagePolicy } from '../configurations.ts';

interface CachedImage {
  image: string;
  sizeMiB: number;
  lastUsedAt: number;
  /** The time at which its transfer ends. */
  readyAt: number;
}

/** The current transfer on the repository's link. */
interface Transfer {
  image: string;
  hosts: number[];
  leases: string[];
  until: number;
}

interface LeaseImages {
  /** Hosts that have or receive this lease's own copy of the image, when hosts have no cache. */
  copies: number[];
  /** Hosts on whose image the disks of its VMs are based; a migrated disk is based on none. */
  backingHosts: number[];
  /** The time at which the transfer for this lease ends; null: no transfer is running. */
  transferUntil: number | null;
}

/** Plain data, for a planner's snapshot. */
export interface ImageStoreData {
  caches: CachedImage[][];
  transfer: Transfer | null;
  leases: [string, LeaseImages][];
}

/** Records the hosts that have or receive images: by host, and by lease. */
export class ImageStore {
  readonly policy: ImagePolicy;
  readonly caches: CachedImage[][];
  transfer: Transfer | null;
  readonly #leases: Map<string, LeaseImages>;

  constructor(policy: ImagePolicy, data: ImageStoreData) {
    this.policy = policy;
    this.caches = data.caches;
    this.transfer = data.transfer;
    this.#leases = new Map(data.leases);
  }

  static empty(policy: ImagePolicy, hosts: number): ImageStore {
    return new ImageStore(policy, { caches: Array.from({ length: hosts }, () => []), transfer: null, leases: [] });
  }

  data(): ImageStoreData {
    return { caches: this.caches, transfer: this.transfer, leases: [...this.#leases] };
  }

  /** By id: the planner also probes with copies of a record. */
  of({ lease }: LeaseRecord): Readonly<LeaseImages> {
    return this.#leases.get(lease.id) ?? { copies: [], backingHosts: [], transferUntil: null };
  }

  update(record: LeaseRecord, changes: Partial<LeaseImages>): void {
    this.#leases.set(record.lease.id, { ...this.of(record), ...changes });
  }

  forget({ lease }: LeaseRecord): void {
    this.#leases.delete(lease.id);
  }

  loseHost(index: number): void {
    this.caches[index] = [];
    if (this.transfer !== null) this.transfer.hosts = this.transfer.hosts.filter((host) => host !== index);
    for (const images of this.#leases.values()) images.copies = images.copies.filter((host) => host !== index);
  }

  hasOrAwaits(record: LeaseRecord, host: number): boolean {
    if (this.policy.cacheMiB === 0) return this.of(record).copies.includes(host);
    return this.caches[host]!.some((cached) => cached.image === record.lease.image);
  }

  transferS({ lease }: LeaseRecord): number {
    return Math.ceil(imageMiB(lease) / this.policy.rateMiBPerS - 1e-6);
  }
}

export function imageMiB({ imageMiB: size }: { imageMiB?: number | undefined }): number {
  return size ?? 0;
}
