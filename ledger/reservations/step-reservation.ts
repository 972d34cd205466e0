import type { Notification, ReservationStep } from '../../contracts/ledger.ts';
import { type DrainState, isDrainOver, type Remaining } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { type ReservationEventType, reservationEventTypes } from '../../model/events.ts';
import { type HostDrain, isReservationOver, type ReservationId, type ReservationState } from '../../model/reservation.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import { acceptDrain } from '../drains/accept-drain.ts';
import { restoreHostAdmission } from '../drains/drain-row.ts';
import { readDrainInput } from '../drains/planner-input.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { reservationDrain } from './accept-reservation.ts';
import { writeReservationEvent } from './reservation-event.ts';

interface ReservationRow {
  id: ReservationId;
  ownerId: string;
  state: ReservationState;
  startAt: Date;
  endAt: Date;
  purpose: string;
  bringBack: boolean;
  workflowAt: Date | null;
  cancelRequestedAt: Date | null;
}

interface HostDrainRow extends HostDrain {
  state: DrainState;
  remaining: Remaining[] | null;
}

interface ReservationContext {
  deps: LedgerDeps;
  tx: Transaction;
  row: ReservationRow;
  nowMs: number;
  /** The drains of its hosts, once they were requested. */
  drains: HostDrainRow[];
  /** This step has changed its state. */
  stateChanged: boolean;
}

/** A host is closed before its drain has to begin, by the drain's own duration and this, so that the loads of its VMs are measured first. */
const closeAheadMs = 60_000;

/** A host that cannot be closed yet is retried until this long before it is needed. */
const retryUntilMs = closeAheadMs / 2;

/** Decides a reservation's next step and writes it down, in one transaction, as stepDrain does. */
export async function stepReservation(deps: LedgerDeps, id: ReservationId): Promise<ReservationStep> {
  try {
    return await inTransaction(deps.ledger, (tx) => advance(deps, tx, id));
  } catch (error) {
    // A host cannot be emptied in time after all, an operator drains it for another purpose, or it was removed.
    const refusals = ['drain-impossible', 'conflict', 'not-found'];
    if (!(error instanceof BerthError) || !refusals.includes(error.code)) throw error;
    return inTransaction(deps.ledger, async (tx) => {
      const context = await lockReservation(deps, tx, id);
      if (isReservationOver(context.row.state)) return stepResult(context, {});
      // VMs that boot now will run by then, and can migrate.
      if (error.code === 'drain-impossible' && context.row.startAt.getTime() - context.nowMs > retryUntilMs)
        return stepResult(context, { waitMs: 1000, summary: `**scheduled**, and retries: ${error.message}` });
      return failReservation(context, [{ what: id, why: error.message }]);
    });
  }
}

async function lockReservation(deps: LedgerDeps, tx: Transaction, id: ReservationId): Promise<ReservationContext> {
  await lockPlacement(tx);
  const rows = await tx.$queryRaw<ReservationRow[]>`SELECT * FROM "HostReservation" WHERE id = ${id} FOR UPDATE`;
  const row = oneOrNotFound(rows, `reservation ${id}`);
  const drains = await tx.$queryRaw<HostDrainRow[]>`
    SELECT d.id AS drain, d."hostId" AS host, d.number, d.state, d.remaining
    FROM "HostHold" h JOIN "Drain" d ON d.id = h."drainId" WHERE h."reservationId" = ${id} ORDER BY d."hostId"`;
  return { deps, tx, row, nowMs: deps.clock(), drains, stateChanged: false };
}

async function advance(deps: LedgerDeps, tx: Transaction, id: ReservationId): Promise<ReservationStep> {
  const context = await lockReservation(deps, tx, id);
  const { row, nowMs, drains } = context;
  await tx.$executeRaw`
    UPDATE "HostReservation" SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz) WHERE id = ${id}`;
  if (isReservationOver(row.state)) return stepResult(context, {});
  if (row.cancelRequestedAt !== null) return cancel(context);
  switch (row.state) {
    case 'scheduled':
      return closeWhenDue(context);
    case 'vacating': {
      // A drain that returns its host already, or has returned it, was empty: the reservation's time has ended between two steps.
      const emptied: DrainState[] = ['held', 'returning', 'returned'];
      const failed = drains.filter(({ state }) => isDrainOver(state) && !emptied.includes(state));
      if (failed.length > 0) return failReservation(context, failed.flatMap(drainFailure));
      const waits = drains.some(({ state }) => !emptied.includes(state)) || nowMs < row.startAt.getTime();
      if (!waits) await enterState(context, 'active', reservationEventTypes.started);
      return stepResult(context, { waitMs: waits ? null : row.endAt.getTime() - nowMs });
    }
    default:
      return holdUntilEnd(context);
  }
}

const drainFailure = ({ drain, host, state, remaining }: HostDrainRow): Remaining[] =>
  remaining !== null && remaining.length > 0 ? remaining : [{ what: host, why: `its drain ${drain} is ${state}` }];

function stepResult(context: ReservationContext, more: Partial<ReservationStep>): ReservationStep {
  const { row, drains } = context;
  const hosts = drains.map(({ host, state }) => `${host} is ${state}`).join(', ');
  const summary = `**${row.state}** for ${row.purpose}, from ${row.startAt.toISOString()} to ${row.endAt.toISOString()}; ${hosts}`;
  const open = drains.filter(({ state }) => !isDrainOver(state)).map(({ drain, host, number }) => ({ drain, host, number }));
  // The acceptance has changed the plan of leases, and so does each change of state.
  const notifications: Notification[] = row.workflowAt === null || context.stateChanged ? ['planner'] : [];
  return { state: row.state, drains: open, drainsToNotify: [], notifications, waitMs: null, summary, ...more };
}

async function enterState(
  context: ReservationContext,
  state: ReservationState,
  event?: ReservationEventType,
  problem: Remaining[] = [],
) {
  const { tx, row, deps } = context;
  const now = isoNow(deps);
  const stored = problem.length === 0 ? null : JSON.stringify(problem);
  await tx.$executeRaw`
    UPDATE "HostReservation" SET state = ${state}::"ReservationState", problem = ${stored}::jsonb,
      "finishedAt" = CASE WHEN ${isReservationOver(state)} THEN ${now}::timestamptz END
    WHERE id = ${row.id}`;
  row.state = state;
  context.stateChanged = true;
  if (isReservationOver(state)) await tx.hostHold.updateMany({ where: { reservationId: row.id }, data: { released: true } });
  if (event !== undefined) await writeReservationEvent(tx, row.id, event, now, problem);
}

/** Waits until the hosts have to be emptied; then closes them, all in this transaction or none. */
async function closeWhenDue(context: ReservationContext): Promise<ReservationStep> {
  const { tx, row, nowMs } = context;
  const holds = await tx.hostHold.findMany({ where: { reservationId: row.id }, orderBy: { hostId: 'asc' } });
  const request = { ...reservationDrain, deadlineMs: row.startAt.getTime(), nowMs };
  let leadMs = closeAheadMs;
  for (const { hostId } of holds) {
    const { boundS } = planDrain(await readDrainInput(tx, { ...request, host: hostId }));
    leadMs = Math.max(leadMs, closeAheadMs + 2 * boundS * 1000);
  }
  const remainingMs = row.startAt.getTime() - leadMs - nowMs;
  if (remainingMs > 0) return stepResult(context, { waitMs: Math.max(1000, remainingMs / 2) });
  for (const { hostId } of holds) {
    const drain = await acceptDrain(tx, {
      ...request,
      host: hostId,
      returnAfterMs: row.endAt.getTime(),
      returnVms: row.bringBack,
      owner: row.ownerId,
      reason: row.purpose,
    });
    await tx.hostHold.update({
      where: { reservationId_hostId: { reservationId: row.id, hostId } },
      data: { drainId: drain },
    });
  }
  await enterState(context, 'vacating');
  return stepResult({ ...(await lockReservation(context.deps, tx, row.id)), stateChanged: true }, {});
}

/** Cancels the drains of the other hosts, and opens hosts whose drain has ended incomplete. */
async function failReservation(context: ReservationContext, problem: Remaining[]): Promise<ReservationStep> {
  const drainsToNotify = await cancelDrains(context);
  await enterState(context, 'failed', reservationEventTypes.failed, problem);
  for (const { drain, state } of context.drains) if (state === 'incomplete') await restoreHostAdmission(context.tx, drain);
  return stepResult(context, { drainsToNotify });
}

async function cancelDrains({ tx, row, drains, deps }: ReservationContext): Promise<HostDrain[]> {
  const open = drains.filter(({ state }) => !isDrainOver(state));
  for (const { drain } of open)
    await tx.$executeRaw`
      UPDATE "Drain" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz),
        "goBack" = ${row.bringBack} WHERE id = ${drain}`;
  return open.map(({ drain, host, number }) => ({ drain, host, number }));
}

async function cancel(context: ReservationContext): Promise<ReservationStep> {
  const drainsToNotify = await cancelDrains(context);
  if (drainsToNotify.length === 0) await enterState(context, 'cancelled', reservationEventTypes.cancelled);
  return stepResult(context, { drainsToNotify });
}

/** The drains hold the hosts until then, and open them by themselves. */
async function holdUntilEnd(context: ReservationContext): Promise<ReservationStep> {
  const { row, nowMs, drains } = context;
  const open = drains.some(({ state }) => !isDrainOver(state));
  if (nowMs < row.endAt.getTime()) return stepResult(context, { waitMs: row.endAt.getTime() - nowMs });
  if (!open) await enterState(context, 'ended', reservationEventTypes.ended);
  return stepResult(context, {});
}

/** An operator has cancelled the reservation's workflow, which has the effect of a cancellation by the API. */
export async function requestReservationCancel(deps: LedgerDeps, id: ReservationId): Promise<void> {
  await deps.ledger.$executeRaw`
    UPDATE "HostReservation" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "finishedAt" IS NULL`;
}

/** Reservations under way whose workflow was never started, because the API died first. */
export async function listReservationsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<ReservationId[]> {
  const rows = await deps.ledger.hostReservation.findMany({
    where: { finishedAt: null, workflowAt: null, createdAt: { lt: secondsAgo(deps, olderThanS) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
    take: batch,
  });
  return rows.map(({ id }) => id as ReservationId);
}
