import { BerthError } from '../../model/errors.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

/** A VM with the fields that its operations decide by. */
export interface VmRow {
  id: VmId;
  ownerId: string;
  name: string;
  taskId: TaskId | null;
  leaseId: string | null;
  address: string | null;
  state: VmState;
  generation: number;
  hostId: HostId;
  provider: string;
  vcpus: number;
  memoryMiB: number;
  /** What its disks take on its home. */
  keptMiB: number;
  startedAt: Date | null;
  endedAt: Date | null;
  resumedAt: Date | null;
  asleep: boolean;
  /** Until when events have told its usage. */
  usageAt: Date | null;
  /** When its owner or a drain requested the operation under way; null where there is none, or the VM belongs to a task. */
  operationAt: Date | null;
  migrating: boolean;
}

/** Locks a VM's row to the end of the transaction. Throws not-found. */
export async function lockVm(tx: Transaction, id: VmId): Promise<VmRow> {
  const rows = await tx.$queryRaw<VmRow[]>`
    SELECT v.id, v."ownerId", v.name, v."taskId", v."leaseId", v.address, v.state, v.generation, v."hostId", v.vcpus, v."memoryMiB", v."startedAt",
      v."endedAt", v."resumedAt", v.asleep, v."usageAt", v."operationAt", v."diskMiB" + v."overlayMiB" AS "keptMiB", h.provider, EXISTS (
      SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')) AS migrating
    FROM "Vm" v LEFT JOIN "Host" h ON h.id = v."hostId" WHERE v.id = ${id} FOR UPDATE OF v`;
  return oneOrNotFound(rows, `VM ${id}`);
}

export function refuseUnlessState(row: VmRow, state: VmState, participle: string): void {
  if (row.state !== state) throw new BerthError('conflict', `VM ${row.id} is ${row.state}; it cannot be ${participle}`);
}

/** The fields that every event of a VM with a host has. */
export const vmEventFields = (row: VmRow) => ({
  vm: row.id,
  name: row.name,
  owner: row.ownerId,
  task: row.taskId,
  host: row.hostId,
  provider: row.provider,
  generation: row.generation,
});
