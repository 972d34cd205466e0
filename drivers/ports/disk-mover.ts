import type { DiskSource, DomainDisk } from '../../contracts/domain.ts';

export interface CopyJob {
  copiedBytes: number;
  totalBytes: number;
  /** All is copied, and what the guest writes goes to both. */
  ready: boolean;
}

/** Copies disks of a live domain to this host, and lets it go on with the copies. */
export interface DiskMover {
  /** From where a domain has each of its disks open, by target. */
  readSources(name: string): Promise<Map<string, DiskSource>>;
  /** Begins to copy a disk into the file `disk.source`, which is there. */
  startCopy(name: string, disk: DomainDisk): Promise<void>;
  /** null where no copy is at work. */
  observeCopy(name: string, target: string): Promise<CopyJob | null>;
  /** From now on the domain works with the copy alone. */
  pivot(name: string, target: string): Promise<void>;
  /** Ends a copy, which is of no use then; harmless where there is none. */
  abortCopy(name: string, target: string): Promise<void>;
}
