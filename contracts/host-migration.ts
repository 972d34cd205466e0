import type { VmId } from '../model/ids.ts';
import type { ConvergencePolicy, MigrationJob } from '../model/migration.ts';
import type { Boot, VmSpec } from '../model/vm.ts';
import type { DomainConfig, DomainStatus } from './domain.ts';

export type ColdCopyFile = 'memory' | 'overlay' | 'data' | `extra-${number}`;

/** Where a VM's new host finds what its guest wrote to its console before. */
export interface EarlierConsole {
  /** Of the host that the VM leaves. */
  address: string;
  /** Of the VM's new placement, under which that host keeps it. */
  generation: number;
}

export interface PackColdCopy {
  vmId: VmId;
  generation: number;
  files: ColdCopyFile[];
  /** Chunks that the target has of an earlier version, and the address to read their list from. */
  cachedChunks: { address: string; chunks: number } | null;
  /** The generation at the target, where this host is the one that the VM leaves: its console is kept for that. */
  targetGeneration?: number;
}

export interface UnpackColdCopy {
  /** With this host and its generation here. */
  vm: VmSpec;
  /** Address of the host that has its disks, unless they are copied as well; null: this one. */
  diskHostAddress: string | null;
  packs: { address: string; bytes: number }[];
  portableRecord: PortableRecord;
  /** When it was suspended; null: it has no memory, because its domain had ended. */
  suspendedSinceMs: number | null;
  /** Absent: of a migration that an earlier version began. */
  earlierConsole?: EarlierConsole;
}

export interface RemoveColdLeftover {
  vmId: VmId;
  generation: number;
  /** Files that become an old version here, for the case that the VM returns. */
  cacheFiles: ColdCopyFile[];
  /** Its disks remain here: this is its home. */
  isHome: boolean;
  /** As in PackColdCopy. */
  targetGeneration?: number;
}

/** What a host has of a VM that migrates. `unknown` is never a value here: a host that can't tell throws. */
export interface MigrationObservation {
  domain: DomainStatus | null;
  job: MigrationJob | null;
}

/** The part of the source's record that the target's has to contain as well. */
export interface PortableRecord {
  /** Set once data.raw is complete. */
  staged: { bytes: number } | null;
  /** Set once the guest has its identity; cleared before a domain is created. */
  ready: { createMs: number; bootMs: number } | null;
  /** Set before the task's command is started. */
  jobStartedMs: number | null;
  /** How long it has been suspended or paused so far: a command's time excludes it. */
  idleMs: number;
  /** Since when its owner has paused it; null: the owner has not. Absent from what 0.2.0 wrote. */
  pausedSinceMs?: number | null;
  /** How its domain was last started. Written before the start is requested. */
  boot: Boot | null;
  /** Set once a guest was given its identity on this overlay: from then on its content is the guest's own. */
  identityApplied: boolean;
  /** Its task wants the outputs also of a command that is cut off. Absent: of a host with an earlier version. */
  keepsOutputs?: boolean;
}

export interface PrepareIncoming {
  /** As it will be here: this host, and the generation of this placement. */
  vm: VmSpec;
  /** Address of the host that has its disks; null: this one. */
  diskHostAddress: string | null;
  portableRecord: PortableRecord;
  /** Its guest is paused, and comes paused. */
  paused?: boolean;
  /** Absent: of a migration that an earlier version began. */
  earlierConsole?: EarlierConsole;
}

export interface MigrateOut {
  vmId: VmId;
  /** At the source, and at the target. */
  generation: number;
  targetGeneration: number;
  config: DomainConfig;
  targetAddress: string;
  policy: ConvergencePolicy;
  /** The guest is paused, and is left paused at the target. */
  paused?: boolean;
}

export interface MigrateOutResult {
  /** From the guest's pause at the source to its resumption at the target; null when the source did not resume it. */
  downtimeMs: number | null;
  bytes: number;
  /**
   * What the source observed of both domains after the hand-over, when its own process had ended; null: both hosts have to
   * be observed.
   */
  observed: { from: DomainStatus | null; to: DomainStatus | null } | null;
  /** The guest's agent answered at the source. */
  agentAnswered: boolean;
}

export interface ObserveRecovery {
  vmId: VmId;
  generation: number;
  /** Before its migration. */
  busyCpus: number;
}
