import { leaseEventTypes, type VmStartedData, vmEventTypes } from '../../../model/events.ts';
import type { VmId } from '../../../model/ids.ts';
import type { TaskError } from '../../../model/task.ts';
import type { Boot } from '../../../model/vm.ts';
import { writeEvent } from '../../events/write-event.ts';
import { writePromisedLeaseEvent } from '../../leases/lease-event.ts';
import { byLedgerClock } from '../../ledger-clock.ts';
import { inTransaction, isoNow, isoOf, type LedgerDeps } from '../../transaction.ts';
import { recordBoots } from '../boots.ts';
import { lockVm, vmEventFields } from '../vm-row.ts';
import { writeDomainEnd } from './end-domain.ts';

/**
 * creating → running, with its event, once; `begunAt` and `reportedAt`, the moment of this call, are by the workflow's clock. A VM that was stopped before counts its
 * usage from now.
 */
export async function recordVmStarted(
  deps: LedgerDeps,
  id: VmId,
  begunAt: string,
  boot: Boot,
  reportedAt?: string,
): Promise<void> {
  const now = isoNow(deps);
  const startedAt = byLedgerClock(begunAt, reportedAt, now) ?? now;
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'creating') return;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'running', problem = NULL, "endedAt" = NULL, "startedAt" = COALESCE("startedAt", ${startedAt}::timestamptz),
        "resumedAt" = CASE WHEN "startedAt" IS NULL THEN NULL ELSE ${now}::timestamptz END WHERE id = ${id}`;
    await recordBoots(tx, [{ vm: id, boot }]);
    const data: VmStartedData = {
      ...vmEventFields(row),
      address: row.address ?? '',
      startedAt: row.startedAt === null ? startedAt : now,
    };
    const event = { type: vmEventTypes.started, subject: id, owner: row.ownerId, time: now, data, n: row.generation };
    await writeEvent(tx, event, 'reject');
    await writePromisedLeaseEvent(tx, row.leaseId, leaseEventTypes.started, now);
  });
}

/**
 * An operation found that the VM's domain is gone although Berth has not ended it: `why` says what is known of its end. A
 * task's VM is stuck; a standalone one can be booted again.
 * @param agoMs how long ago it ended; null: unknown
 */
export async function recordVmMissing(deps: LedgerDeps, id: VmId, why: TaskError, agoMs: number | null = null): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'running' && row.state !== 'paused') return;
    if (row.taskId !== null) {
      await tx.$executeRaw`UPDATE "Vm" SET state = 'stuck', problem = ${JSON.stringify(why)}::jsonb WHERE id = ${id}`;
      return;
    }
    const endedAt = agoMs === null ? now : isoOf(deps.clock() - agoMs);
    await writeDomainEnd(tx, row, { error: why, endedAt, now });
  });
}
