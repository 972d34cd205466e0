import type { HostId, VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import { settleLease } from '../market/settle-lease.ts';
import type { Transaction } from '../transaction.ts';
import { endedVms, writeVmRemoved } from '../vms/finish-vm.ts';
import { usageUntil } from '../vms/residencies.ts';
import { lockVm, type VmRow } from '../vms/vm-row.ts';
import { readFencesOf, replaceFences } from './fences.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

/** Why records are ended, and when. */
export interface RecordEnd {
  error: TaskError;
  /** RFC 3339 */
  now: string;
  /** A host that is declared lost: it will confirm nothing, so nothing is fenced there. */
  lost: HostId | null;
}

/**
 * Ends a VM's record within the caller's transaction, from every state: what it takes of its hosts is fenced, a migration of it
 * ends, and a standalone one has its event with its whole usage. The caller holds the placement lock.
 * @returns the hosts on which it is fenced
 */
export async function endVm(tx: Transaction, id: VmId, ending: RecordEnd): Promise<HostId[]> {
  const row = await lockVm(tx, id);
  if (row.state === 'removed') return [];
  const fences = (await readFencesOf(tx, id)).filter(({ hostId }) => hostId !== ending.lost);
  await endMigrationOf(tx, id, ending);
  const { order } = await tx.vm.findUniqueOrThrow({ where: { id }, select: { order: true } });
  if (order !== null) {
    await writeStandaloneEnd(tx, row, ending);
    await requestWorkflowEnd(tx, workflowId.vm(id), ending.error.message, ending.now);
  }
  await tx.$executeRaw`UPDATE "Vm" SET state = 'removing' WHERE id = ${id} AND state NOT IN ('pending', 'reserved', 'removing')`;
  const generation = fences[0]?.generation ?? row.generation;
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removed', generation = ${generation}, operation = NULL, "operationAt" = NULL, refusal = NULL,
      problem = ${JSON.stringify(ending.error)}::jsonb,
      "endedAt" = CASE WHEN "startedAt" IS NULL THEN NULL ELSE COALESCE("endedAt", ${ending.now}::timestamptz) END WHERE id = ${id}`;
  await replaceFences(tx, id, fences, ending.now);
  return fences.map(({ hostId }) => hostId);
}

/** A migration ends with its VM: as committed where it was, else as rolled back. */
async function endMigrationOf(tx: Transaction, id: VmId, { error, now }: RecordEnd): Promise<void> {
  const ended = await tx.$queryRaw<{ generation: number }[]>`
    UPDATE "Migration" SET state = CASE WHEN "committedAt" IS NULL THEN 'rolledBack' ELSE 'succeeded' END::"MigrationState",
      reserved = false, "diskMiB" = 0, waiting = NULL, error = ${JSON.stringify(error)}::jsonb, "finishedAt" = ${now}::timestamptz
    WHERE "vmId" = ${id} AND state IN ('running', 'stuck') RETURNING generation`;
  for (const { generation } of ended) await requestWorkflowEnd(tx, workflowId.migration(id, generation), error.message, now);
}

async function writeStandaloneEnd(tx: Transaction, row: VmRow, { error, now }: RecordEnd): Promise<void> {
  const usage = await usageUntil(tx, row, now, now);
  await writeVmRemoved(tx, row, { error, usage }, now);
  await settleLease(tx, row.leaseId, { ...endedVms(row, usage), error, now });
}
