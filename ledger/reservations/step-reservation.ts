import type { Notification, ReservationStep } from '../../contracts/ledger.ts';
import { type DrainId, type DrainState, isDrainOver, type Remaining } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { type ReservationEventType, reservationEventTypes } from '../../model/events.ts';
import { type HostDrain, isReservationOver, type ReservationId, type ReservationState } from '../../model/reservation.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import { acceptDrain } from '../drains/accept-drain.ts';
import { readDrainInput } from '../drains/planner-input.ts';
import { lockPlacement } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { defaultConfidence, writeReservationEvent } from './accept-reservation.ts';

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
  /** The drains of its hosts, once they were asked for. */
  drains: HostDrainRow[];
  /** Its state was changed by this look. */
  stateChanged: boolean;
}

/** A host is closed before its drain has to begin, by as much again as that takes and this: its load is to be seen first. */
const closeAheadMs = 60_000;

/** A host that can't be closed yet is waited for until so long before it is needed. */
const retryUntilMs = closeAheadMs / 2;

/** Looks at where a reservation stands, and writes down what is next, in one transaction, as stepDrain does. */
export async function stepReservation(deps: LedgerDeps, id: ReservationId): Promise<ReservationStep> {
  try {
    return await inTransaction(deps.ledger, (tx) => advance(deps, tx, id));
  } catch (error) {
    // A host that can't be emptied in time after all, or that an operator empties for a purpose of his own.
    const refusals = ['drain-impossible', 'conflict'];
    if (!(error instanceof BerthError) || !refusals.includes(error.code)) throw error;
    return inTransaction(deps.ledger, async (tx) => {
      const look = await lockReservation(deps, tx, id);
      if (isReservationOver(look.row.state)) return stepResult(look, {});
      // What begins by then runs, and can be moved.
      if (error.code === 'drain-impossible' && look.row.startAt.getTime() - look.nowMs > retryUntilMs)
        return stepResult(look, { waitMs: 1000, summary: `**scheduled**, and waits: ${error.message}` });
      return failReservation(look, [{ what: id, why: error.message }]);
    });
  }
}

async function lockReservation(deps: LedgerDeps, tx: Transaction, id: ReservationId): Promise<ReservationContext> {
  await lockPlacement(tx);
  const rows = await tx.$queryRaw<ReservationRow[]>`SELECT * FROM "HostReservation" WHERE id = ${id} FOR UPDATE`;
  const row = rows[0];
  if (row === undefined) throw new BerthError('not-found', `There is no reservation ${id} in the ledger`);
  const drains = await tx.$queryRaw<HostDrainRow[]>`
    SELECT d.id AS drain, d."hostId" AS host, d.number, d.state, d.remaining
    FROM "HostHold" h JOIN "Drain" d ON d.id = h."drainId" WHERE h."reservationId" = ${id} ORDER BY d."hostId"`;
  return { deps, tx, row, nowMs: deps.clock(), drains, stateChanged: false };
}

async function advance(deps: LedgerDeps, tx: Transaction, id: ReservationId): Promise<ReservationStep> {
  const look = await lockReservation(deps, tx, id);
  const { row, nowMs, drains } = look;
  await tx.$executeRaw`
    UPDATE "HostReservation" SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz) WHERE id = ${id}`;
  if (isReservationOver(row.state)) return stepResult(look, {});
  if (row.cancelRequestedAt !== null) return cancel(look);
  switch (row.state) {
    case 'scheduled':
      return closeWhenDue(look);
    case 'vacating': {
      // One that has given its host back already was empty: its time is over before anybody looked.
      const had: DrainState[] = ['held', 'returning', 'returned'];
      const lost = drains.filter(({ state }) => isDrainOver(state) && !had.includes(state));
      if (lost.length > 0) return failReservation(look, lost.flatMap(drainFailure));
      const waits = drains.some(({ state }) => !had.includes(state)) || nowMs < row.startAt.getTime();
      if (!waits) await enterState(look, 'active', reservationEventTypes.started);
      return stepResult(look, { waitMs: waits ? null : row.endAt.getTime() - nowMs });
    }
    default:
      return holdUntilEnd(look);
  }
}

const drainFailure = ({ drain, host, state, remaining }: HostDrainRow): Remaining[] =>
  remaining !== null && remaining.length > 0 ? remaining : [{ what: host, why: `its drain ${drain} is ${state}` }];

function stepResult(look: ReservationContext, more: Partial<ReservationStep>): ReservationStep {
  const { row, drains } = look;
  const said = drains.map(({ host, state }) => `${host} is ${state}`).join(', ');
  const says = `**${row.state}** for ${row.purpose}, from ${row.startAt.toISOString()} to ${row.endAt.toISOString()}; ${said}`;
  const open = drains.filter(({ state }) => !isDrainOver(state)).map(({ drain, host, number }) => ({ drain, host, number }));
  // Its acceptance has changed the plan, and so does each of its moves.
  const wake: Notification[] = row.workflowAt === null || look.stateChanged ? ['planner'] : [];
  return { state: row.state, drains: open, drainsToNotify: [], notifications: wake, waitMs: null, summary: says, ...more };
}

async function enterState(
  look: ReservationContext,
  state: ReservationState,
  event?: ReservationEventType,
  problem: Remaining[] = [],
) {
  const { tx, row, deps } = look;
  const now = isoNow(deps);
  const why = problem.length === 0 ? null : JSON.stringify(problem);
  await tx.$executeRaw`
    UPDATE "HostReservation" SET state = ${state}::"ReservationState", problem = ${why}::jsonb,
      "finishedAt" = CASE WHEN ${isReservationOver(state)} THEN ${now}::timestamptz END
    WHERE id = ${row.id}`;
  row.state = state;
  look.stateChanged = true;
  if (isReservationOver(state)) await tx.hostHold.updateMany({ where: { reservationId: row.id }, data: { released: true } });
  if (event !== undefined) await writeReservationEvent(tx, row.id, event, now, problem);
}

/** Until its hosts have to be emptied; then they are closed, all in this transaction or none. */
async function closeWhenDue(look: ReservationContext): Promise<ReservationStep> {
  const { tx, row, nowMs } = look;
  const holds = await tx.hostHold.findMany({ where: { reservationId: row.id }, orderBy: { hostId: 'asc' } });
  const order = {
    drain: '',
    deadlineMs: row.startAt.getTime(),
    strategy: 'auto' as const,
    mode: 'auto' as const,
    moveDisks: false,
    suspendInPlace: 'never' as const,
    confidence: defaultConfidence,
    nowMs,
  };
  let leastMs = closeAheadMs;
  for (const { hostId } of holds) {
    const { boundS } = planDrain(await readDrainInput(tx, { ...order, host: hostId }));
    leastMs = Math.max(leastMs, closeAheadMs + 2 * boundS * 1000);
  }
  const leftMs = row.startAt.getTime() - leastMs - nowMs;
  if (leftMs > 0) return stepResult(look, { waitMs: Math.max(1000, leftMs / 2) });
  for (const { hostId } of holds) {
    const drain = await acceptDrain(tx, {
      ...order,
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
  await enterState(look, 'vacating');
  return stepResult({ ...(await lockReservation(look.deps, tx, row.id)), stateChanged: true }, {});
}

/** It can't be had: the drains of its other hosts are called off, and what was closed is opened. */
async function failReservation(look: ReservationContext, problem: Remaining[]): Promise<ReservationStep> {
  const tell = await cancelDrains(look);
  await enterState(look, 'failed', reservationEventTypes.failed, problem);
  for (const { drain, state } of look.drains) if (state === 'incomplete') await openHost(look, drain);
  return stepResult(look, { drainsToNotify: tell });
}

async function openHost({ tx }: ReservationContext, drain: DrainId): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Host" h SET schedulable = d."wasSchedulable", "acceptsMigrations" = d."wasAccepting"
    FROM "Drain" d WHERE d.id = ${drain} AND h.id = d."hostId"`;
}

async function cancelDrains({ tx, row, drains, deps }: ReservationContext): Promise<HostDrain[]> {
  const open = drains.filter(({ state }) => !isDrainOver(state));
  for (const { drain } of open)
    await tx.$executeRaw`
      UPDATE "Drain" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz),
        "goBack" = ${row.bringBack} WHERE id = ${drain}`;
  return open.map(({ drain, host, number }) => ({ drain, host, number }));
}

async function cancel(look: ReservationContext): Promise<ReservationStep> {
  const tell = await cancelDrains(look);
  if (tell.length === 0) await enterState(look, 'cancelled', reservationEventTypes.cancelled);
  return stepResult(look, { drainsToNotify: tell });
}

/** Its drains hold the hosts until then, and give them back by themselves. */
async function holdUntilEnd(look: ReservationContext): Promise<ReservationStep> {
  const { row, nowMs, drains } = look;
  const open = drains.some(({ state }) => !isDrainOver(state));
  if (nowMs < row.endAt.getTime()) return stepResult(look, { waitMs: row.endAt.getTime() - nowMs });
  if (!open) await enterState(look, 'ended', reservationEventTypes.ended);
  return stepResult(look, {});
}

/** Its workflow was cancelled by an operator: the same as if the API had been asked. */
export async function requestReservationCancel(deps: LedgerDeps, id: ReservationId): Promise<void> {
  await deps.ledger.$executeRaw`
    UPDATE "HostReservation" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "finishedAt" IS NULL`;
}

/** Reservations under way that no workflow has asked for: the API died before it could start one. */
export async function listReservationsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<ReservationId[]> {
  const rows = await deps.ledger.hostReservation.findMany({
    where: { finishedAt: null, workflowAt: null, createdAt: { lt: new Date(deps.clock() - olderThanS * 1000) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
    take: 100,
  });
  return rows.map(({ id }) => id as ReservationId);
}
