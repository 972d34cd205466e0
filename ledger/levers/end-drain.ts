import { type DrainId, type DrainState, isDrainOver } from '../../model/drain.ts';
import { drainEventTypes } from '../../model/events.ts';
import type { HostId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { writeDrainEvent } from '../drains/drain-event.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';
import type { RecordEnd } from './end-vm.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

interface DrainRow {
  id: DrainId;
  hostId: HostId;
  number: number;
  ownerId: string;
  state: DrainState;
  deadline: Date;
  reason: string | null;
}

/**
 * Ends a drain within the caller's transaction: as incomplete, or as cancelled where the host was empty already. Its host stays
 * closed until an operator opens it, and moves that are under way go on by themselves. The caller holds the placement lock.
 * @returns whether it was under way
 */
export async function endDrain(tx: Transaction, id: DrainId, { error, now }: RecordEnd): Promise<boolean> {
  const rows = await tx.$queryRaw<DrainRow[]>`SELECT * FROM "Drain" WHERE id = ${id} FOR UPDATE`;
  const row = oneOrNotFound(rows, `drain ${id}`);
  if (isDrainOver(row.state)) return false;
  const state = row.state === 'held' || row.state === 'returning' ? 'cancelled' : 'incomplete';
  const remaining = [{ what: row.hostId, why: error.message }];
  await tx.$executeRaw`
    UPDATE "Drain" SET state = ${state}::"DrainState", remaining = ${JSON.stringify(remaining)}::jsonb, "finishedAt" = ${now}::timestamptz
    WHERE id = ${id}`;
  await writeDrainEvent(tx, { ...row, state }, drainEventTypes[state], now, remaining);
  await requestWorkflowEnd(tx, workflowId.drain(row.hostId, row.number), error.message, now);
  return true;
}
