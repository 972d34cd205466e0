import { type EventData, type VmPausedData, type VmResumedData, vmEventTypes } from '../../../model/events.ts';
import type { TaskError } from '../../../model/task.ts';
import type { PausedBy } from '../../../model/vm.ts';
import { writeEvent } from '../../events/write-event.ts';
import type { Transaction } from '../../transaction.ts';
import { type VmRow, vmEventFields } from '../vm-row.ts';

/** The VM's processors stand still; an I/O error is also a problem that its owner reads. */
export async function writePaused(tx: Transaction, row: VmRow, by: PausedBy, now: string): Promise<void> {
  const problem = by === 'ioError' ? JSON.stringify(ioError(row)) : null;
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'paused', "pausedBy" = ${by}::"PausedBy", problem = ${problem}::jsonb WHERE id = ${row.id}`;
  const data: VmPausedData = { ...vmEventFields(row), by, pausedAt: now };
  await writeConditionEvent(tx, row, vmEventTypes.paused, data, now);
}

const ioError = ({ id, hostId }: VmRow): TaskError => ({
  code: 'disk-full',
  message: `${hostId} could not write to the disks of ${id}, probably because its disk is full. Nothing is lost: resume it when that is mended`,
});

export async function writeResumed(tx: Transaction, row: VmRow, now: string): Promise<void> {
  await tx.$executeRaw`UPDATE "Vm" SET state = 'running', problem = NULL WHERE id = ${row.id}`;
  const data: VmResumedData = { ...vmEventFields(row), resumedAt: now };
  await writeConditionEvent(tx, row, vmEventTypes.resumed, data, now);
}

/** Whether its guest answers, from now on. @returns whether that has changed */
export async function writeAnswers(tx: Transaction, row: VmRow, answers: boolean, now: string): Promise<boolean> {
  const changed = await tx.$executeRaw`
    UPDATE "Vm" SET "silentSince" = CASE WHEN ${answers} THEN NULL ELSE ${now}::timestamptz END
    WHERE id = ${row.id} AND ("silentSince" IS NULL) <> ${answers}`;
  if (changed === 0) return false;
  const type = answers ? vmEventTypes.responsive : vmEventTypes.unresponsive;
  await writeConditionEvent(tx, row, type, { ...vmEventFields(row), since: now }, now);
  return true;
}

type ConditionEventType = (typeof vmEventTypes)['paused' | 'resumed' | 'unresponsive' | 'responsive'];

/**
 * A VM may be paused and resumed, and its guest may hang and answer, without a new generation: each of its events has a number of its own, one of the sequence of
 * events, since those of before may be kept no more. The caller has locked its row.
 */
async function writeConditionEvent<T extends ConditionEventType>(
  tx: Transaction,
  { id, ownerId }: VmRow,
  type: T,
  data: EventData<T>,
  now: string,
): Promise<void> {
  const next = await tx.$queryRaw<{ n: bigint }[]>`SELECT nextval('"Event_seq_seq"') AS n`;
  const n = Number(next[0]!.n);
  await writeEvent(tx, { type, subject: id, owner: ownerId, time: now, data: data as never, n }, 'reject');
}
