import { type VmStoppedData, vmEventTypes } from '../../../model/events.ts';
import type { TaskError } from '../../../model/task.ts';
import { type EndCause, endings, stateAfterEnd } from '../../../model/vm.ts';
import { writeEvent } from '../../events/write-event.ts';
import type { Transaction } from '../../transaction.ts';
import { endResidency, lastUsage } from '../residencies.ts';
import { type VmRow, vmEventFields } from '../vm-row.ts';

export function endError(cause: EndCause, vm: { id: string; hostId: string }): TaskError {
  const { code, says } = endings[cause];
  return { code, message: `${says}. The disks of ${vm.id} are kept, and reboot starts it again` };
}

/**
 * A standalone VM's domain has ended, and its disks remain: it is stopped or crashed, with its event; its usage ends with
 * the domain. A VM that was suspended has no usage to end.
 * @param endedAt RFC 3339, by the ledger's clock; times outside its last residency are cut to it
 */
export async function writeDomainEnd(
  tx: Transaction,
  row: VmRow,
  { error, endedAt, now }: { error: TaskError; endedAt: string; now: string },
): Promise<void> {
  const state = stateAfterEnd(error);
  const stoppedAt = withinResidency(row, endedAt, now);
  const wasSuspended = row.asleep || row.state === 'restoring';
  const usage = wasSuspended ? [] : await lastUsage(tx, row, stoppedAt);
  if (!wasSuspended) await endResidency(tx, row, stoppedAt);
  await tx.$executeRaw`
    UPDATE "Vm" SET state = ${state}::"VmState", problem = ${JSON.stringify(error)}::jsonb, "endedAt" = ${stoppedAt}::timestamptz,
      "resumedAt" = NULL WHERE id = ${row.id}`;
  const data: VmStoppedData = { ...vmEventFields(row), error, stoppedAt, usage };
  const event = { subject: row.id, owner: row.ownerId, time: now, data, n: row.generation };
  await writeEvent(tx, { type: vmEventTypes[state], ...event }, 'reject');
}

function withinResidency({ startedAt, resumedAt }: VmRow, endedAt: string, now: string): string {
  const begun = resumedAt ?? startedAt;
  const ms = Math.min(Date.parse(endedAt), Date.parse(now));
  return new Date(begun === null ? ms : Math.max(ms, begun.getTime())).toISOString();
}
