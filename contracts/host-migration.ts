import type { VmId } from '../model/ids.ts';
import type { ConvergencePolicy, MigrationJob } from '../model/migration.ts';
import type { Boot, VmSpec } from '../model/vm.ts';
import type { DomainConfig, DomainStatus } from './domain.ts';
export type ColdCopyFile = 'memory' | 'overlay' | 'data' | `extra-${number}`;

export interface PackColdCopy {
  vmId: VmId;
  generation: number;
  files: ColdCopyFile[];
  /** What the target has of an earlier version, and where to read which. */
  cachedChunks: { address: string; chunks: number } | null;
}

export interface UnpackColdCopy {
  /** As it will be here. */
  vm: VmSpec;
  /** Address of the host that has its disks, unless they are carried along; null: this one. */
  diskHostAddress: string | null;
  packs: { address: string; bytes: number }[];
  portableRecord: PortableRecord;
  /** When it was suspended. */
  suspendedSinceMs: number;
}

export interface RemoveColdLeftover {
  vmId: VmId;
  generation: number;
  /** What becomes an old version here, for the case that the VM comes back. */
  cacheFiles: ColdCopyFile[];
  /** Its disks stay here: this is its home. */
  isHome: boolean;
}

/** What a host has of a VM that moves; `unknown` never appears here: a host that can't say throws. */
export interface MigrationObservation {
  domain: DomainStatus | null;
  job: MigrationJob | null;
}

/** What the record at the source says, and the target's has to say as well. */
export interface PortableRecord {
  /** Set once data.raw is complete. */
  staged: { bytes: number } | null;
  /** Set once the guest has its identity; cleared before a domain is created. */
  ready: { createMs: number; bootMs: number } | null;
  /** Set before the task's command is started. */
  jobStartedMs: number | null;
  /** How long it has been suspended or paused so far: a command's time excludes it. */
  idleMs: number;
  /** How its domain was last started, and why so. Written before the start is requested. */
  boot: Boot | null;
  /** Set once a guest was given its identity on this overlay: from then on its content is the guest's own. */
  identityApplied: boolean;
}

export interface PrepareIncoming {
  /** As it will be here: this host, and the generation of this placement. */
  vm: VmSpec;
  /** Address of the host that has its disks; null: this one. */
  diskHostAddress: string | null;
  portableRecord: PortableRecord;
}

export interface MigrateOut {
  vmId: VmId;
  /** Here, and at the target. */
  generation: number;
  targetGeneration: number;
  config: DomainConfig;
  targetAddress: string;
  policy: ConvergencePolicy;
}

export interface MigrateOutResult {
  /** From the guest's pause here to its resumption there; null when it wasn't resumed from here. */
  downtimeMs: number | null;
  bytes: number;
  /**
   * What was seen of both copies after the hand-over, once the process of the one here had been seen to end; null where
   * both hosts are still to be asked.
   */
  observed: { from: DomainStatus | null; to: DomainStatus | null } | null;
  /** The guest's agent answered while it was still here. */
  agentAnswered: boolean;
}

export interface ObserveRecovery {
  vmId: VmId;
  generation: number;
  /** Before it moved. */
  busyCpus: number;
}
