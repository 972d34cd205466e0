import type { HostId, TaskId, VmId } from '../model/ids.ts';
import type { MigratedGuest, MigrationId, MigrationJob, MigrationRecord, PhaseEntry } from '../model/migration.ts';
import type { TaskError } from '../model/task.ts';
import type { VmLoad, VmSpec } from '../model/vm.ts';
import type { Notification } from './ledger-placement.ts';

/** The route of an admitted migration. */
export interface MigrationRoute {
  from: { id: HostId; address: string };
  to: { id: HostId; address: string };
  home: { id: HostId; address: string };
  /** The VM as it will be at the target: its host and its generation there. */
  vm: VmSpec;
  /** The VM is suspended, and remains suspended. */
  suspended: boolean;
  /** The VM is paused, and remains paused. Absent from histories of 0.2.0. */
  paused?: boolean;
  /** The VM has no domain: its disks move alone, and it is stopped or crashed at the target as well. */
  ended?: boolean;
  /** Its generation at the source. */
  sourceGeneration: number;
}

export type MigrationAdmission = { admitted: true; route: MigrationRoute } | { admitted: false; reason: string };

export interface MigrationResult {
  downtimeMs: number | null;
  bytes: number;
  phases: PhaseEntry[];
}

/** Result of a disk migration; with an error, the disks are at their old home. */
export interface DiskMoveResult {
  error: TaskError | null;
  bytes: number;
  phases: PhaseEntry[];
}

/** Why a migration failed; `lost`: neither host has the VM any more. */
export interface MigrationFailure extends MigrationResult {
  error: TaskError;
  lost: boolean;
}

export interface MigrationLedger {
  loadMigration(id: MigrationId): Promise<MigrationRecord & { task: TaskId | null }>;
  /**
   * Chooses the target and reserves capacity there, beside that at the source; or returns why the migration waits.
   * Throws migration-refused with each host's reason; conflict when the VM's state does not allow a migration.
   */
  reserveMigration(id: MigrationId): Promise<MigrationAdmission>;
  recordMigrationProgress(id: MigrationId, phases: PhaseEntry[], job: MigrationJob | null): Promise<void>;
  /**
   * The VM is at the target: writes host, generation, the end of its usage at the source and the event `berth.vm.migrated`
   * in one transaction. Repeating it changes nothing.
   */
  commitMigration(id: MigrationId, result: MigrationResult): Promise<Notification[]>;
  /** The VM is at the source, with the new generation; a lost one is stopped. */
  rollBackMigration(id: MigrationId, failure: MigrationFailure): Promise<Notification[]>;
  /** The disks have moved, and the target is the VM's home; or they are at their old home. */
  finishDiskMove(id: MigrationId, end: DiskMoveResult): Promise<Notification[]>;
  /** Turns a live migration whose pre-copy did not converge into a cold one. Throws conflict. */
  fallBackToCold(id: MigrationId): Promise<void>;
  /** It isn't known yet where the VM is: it keeps its resources at both hosts. */
  markMigrationStuck(id: MigrationId, why: TaskError): Promise<void>;
  /** The guest's state at the target, after the commit; a silent guest writes an event. */
  recordMigratedGuest(id: MigrationId, guest: MigratedGuest): Promise<void>;
  /** The VM is as busy as before its migration. */
  recordRecovery(migration: MigrationId): Promise<void>;
  recordLoads(loads: { vmId: VmId; load: VmLoad }[]): Promise<void>;
  /** Accepted migrations whose workflow was never started. */
  listMigrationsWithoutWorkflow(olderThanS: number): Promise<MigrationRecord[]>;
}
