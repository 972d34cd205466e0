import type { DiskSource, DomainDisk } from '../../contracts/domain.ts';

export interface CopyJob {
  copiedBytes: number;
  totalBytes: number;
  /** All is copied, and the guest's writes are mirrored to both disks. */
  ready: boolean;
}

/** Copies disks of a live domain to this host by block jobs, and pivots the domain to the copies. */
export interface DiskMover {
  /** The sources of a domain's disks, by target. */
  readSources(name: string): Promise<Map<string, DiskSource>>;
  /** Starts to copy a disk into the file `disk.source`, which has to exist. */
  startCopy(name: string, disk: DomainDisk): Promise<void>;
  /** null where no copy is active. */
  observeCopy(name: string, target: string): Promise<CopyJob | null>;
  /** From then on the domain uses the copy alone. */
  pivot(name: string, target: string): Promise<void>;
  /** Aborts a copy, which is incomplete then; succeeds where there is none. */
  abortCopy(name: string, target: string): Promise<void>;
}
