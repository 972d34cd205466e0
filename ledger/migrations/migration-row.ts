import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { MigrationId, MigrationMode, MigrationState } from '../../model/migration.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { PausedBy } from '../../model/vm.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

/** A migration, with the fields of its VM that its steps decide by. */
export interface MigrationRow {
  id: MigrationId;
  vmId: VmId;
  ownerId: string;
  generation: number;
  state: MigrationState;
  fromId: HostId;
  toId: HostId | null;
  reserved: boolean;
  mode: MigrationMode;
  requestedBy: string;
  reason: string | null;
  createdAt: Date;
  startedAt: Date | null;
  vcpus: number;
  memoryMiB: number;
  moveDisk: boolean;
  orCold: boolean;
  /** Disk space that is allocated at the target for disks that will follow the VM. */
  diskMiB: number;
  /** The maximum size of the VM's disks. */
  vmDiskMiB: number;
  committedAt: Date | null;
  abortRequestedAt: Date | null;
  /** Who had paused the VM when the migration began. */
  pausedBy: PausedBy | null;
  /** Of a VM without a domain: what it was when the migration began. */
  endedAs: 'stopped' | 'crashed' | null;
  vmState: VmState;
  vmPausedBy: PausedBy | null;
  asleep: boolean;
  /** As its column has them. */
  rules: unknown;
  vmGeneration: number;
  hostId: HostId | null;
  homeId: HostId | null;
  taskId: TaskId | null;
  taskState: TaskState | null;
}

/** Reads a migration and its VM, both locked. Throws not-found. */
export async function lockMigration(tx: Transaction, id: MigrationId): Promise<MigrationRow> {
  const rows = await tx.$queryRaw<MigrationRow[]>`
    SELECT m.*, v.state AS "vmState", v."pausedBy" AS "vmPausedBy", v.generation AS "vmGeneration", v."hostId", v."homeId", v."taskId", v.asleep, v.rules,
      v."diskMiB" + v."overlayMiB" AS "vmDiskMiB",
      (SELECT t.state FROM "Task" t WHERE t.id = v."taskId") AS "taskState"
    FROM "Migration" m JOIN "Vm" v ON v.id = m."vmId" WHERE m.id = ${id} FOR UPDATE OF m, v`;
  return oneOrNotFound(rows, `migration ${id}`);
}
