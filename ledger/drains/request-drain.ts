import type { DrainMode, DrainState, DrainStrategy, SuspendInPlace } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { acceptDrain, type DrainRequest, refuseUnlessInTime } from './accept-drain.ts';
import { readDrainInput } from './planner-input.ts';
import { type DrainRecord, findDrain } from './read-drains.ts';

/** Accepts a drain once for each idempotency key. Throws what acceptDrain throws. */
export async function acceptDrainOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  drain: DrainRequest,
  answer: (drain: DrainRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => answer(await findDrain(tx, await acceptDrain(tx, drain))));
}

/** Locks the row, so that the state which `change` checks still holds when it writes. Throws not-found. */
async function changeDrain(
  ledger: Ledger,
  id: string,
  change: (tx: Transaction, row: DrainRecord) => Promise<void>,
): Promise<DrainRecord> {
  const work = async (tx: Transaction): Promise<DrainRecord> => {
    await tx.$queryRaw`SELECT id FROM "Drain" WHERE id = ${id} FOR UPDATE`;
    await change(tx, await findDrain(tx, id));
    return findDrain(tx, id);
  };
  return inTransaction(ledger, work, requestLimits);
}

function refuseUnless(row: DrainRecord, states: readonly DrainState[], participle: string): void {
  if (!states.includes(row.state))
    throw new BerthError(
      'conflict',
      `Drain ${row.id} is ${row.state}: only one that is ${states.join(' or ')} can be ${participle}`,
    );
}

/** Pauses or resumes a drain; repeated, neither changes anything. Throws not-found, and conflict from a later state. */
export async function changeDrainPaused(ledger: Ledger, id: string, paused: boolean): Promise<DrainRecord> {
  return changeDrain(ledger, id, async (tx, row) => {
    refuseUnless(row, ['waiting', 'moving', 'paused'], paused ? 'paused' : 'resumed');
    if ((row.state === 'paused') !== paused)
      await tx.drain.update({ where: { id }, data: { state: paused ? 'paused' : 'waiting' } });
  });
}

/**
 * Gives a drain another deadline; its returnAfter is never before that. Throws not-found, conflict from a later state,
 * and drain-impossible when the host cannot be empty by then.
 */
export async function changeDrainDeadline(ledger: Ledger, id: string, deadlineMs: number, nowMs: number): Promise<DrainRecord> {
  return changeDrain(ledger, id, async (tx, row) => {
    refuseUnless(row, ['waiting', 'moving', 'paused'], 'given another deadline');
    const { hostId: host, confidence, moveDisks } = row;
    const strategy = row.strategy as DrainStrategy;
    const mode = row.mode as DrainMode;
    const suspendInPlace = row.suspendInPlace as SuspendInPlace;
    const drain = { host, drain: id, deadlineMs, strategy, mode, moveDisks, suspendInPlace, confidence, nowMs };
    refuseUnlessInTime(drain, planDrain(await readDrainInput(tx, drain)));
    const deadline = new Date(deadlineMs);
    const returnAfter = row.returnAfter !== null && row.returnAfter.getTime() < deadlineMs ? deadline : row.returnAfter;
    await tx.drain.update({ where: { id }, data: { deadline, returnAfter } });
  });
}

/** Notes that a drain's cancellation was requested; a repeat keeps the first time. Throws not-found and conflict. */
export async function changeDrainCancelRequested(
  ledger: Ledger,
  id: string,
  { returnVms, nowMs }: { returnVms: boolean; nowMs: number },
): Promise<DrainRecord> {
  return changeDrain(ledger, id, async (tx, row) => {
    refuseUnless(row, ['waiting', 'moving', 'paused', 'held', 'returning'], 'called off');
    const cancelRequestedAt = row.cancelRequestedAt ?? new Date(nowMs);
    await tx.drain.update({ where: { id }, data: { cancelRequestedAt, goBack: returnVms } });
  });
}
