import type { Prisma } from '../../generated/prisma/client.ts';
import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { drainEventTypes } from '../../model/events.ts';
import { newId } from '../../model/ids.ts';
import { isBeyondHorizon } from '../../model/input/horizon.ts';
import type { HostState } from '../../model/states.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { replanPromises } from '../leases/replan-promises.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { writeDrainEvent } from './drain-event.ts';
import { drainOutline, isoCeil, isoCeilOrNull } from './outline.ts';
import { type DrainPlanRequest, readDrainInput } from './planner-input.ts';

export interface DrainRequest extends Omit<DrainPlanRequest, 'drain'> {
  returnAfterMs: number | null;
  /** Whether the drain migrates its VMs back at its end. */
  returnVms: boolean;
  owner: string;
  reason: string | null;
}

/**
 * Accepts a drain within the caller's transaction: closes the host to new work and to migrations, and inserts the drain
 * with its number and its plan.
 *
 * Throws not-found; conflict while another drain of the host is under way; drain-impossible when the host cannot be empty
 * by the deadline, with the earliest time that can be promised and the blockers, or when a lease was promised capacity
 * that does not exist without this host.
 */
export async function acceptDrain(tx: Transaction, request: DrainRequest): Promise<DrainId> {
  const { host, deadlineMs, nowMs } = request;
  // Of two concurrent requests for one host, the second waits here and then finds the drain of the first.
  await lockPlacement(tx);
  const hosts = await tx.$queryRaw<{ state: HostState; schedulable: boolean; acceptsMigrations: boolean }[]>`
    SELECT state, schedulable, "acceptsMigrations" FROM "Host" WHERE id = ${host} AND "removedAt" IS NULL FOR UPDATE`;
  const before = hosts[0];
  if (before === undefined) throw new BerthError('not-found', `There is no host ${host}`);
  const last = await tx.drain.findFirst({ where: { hostId: host }, orderBy: { number: 'desc' } });
  if (last !== null && last.finishedAt === null)
    throw new BerthError('conflict', `Host ${host} is being emptied already: see drain ${last.id}`);
  const input = await readDrainInput(tx, { ...request, drain: '' });
  const plan = planDrain(input);
  // Nothing can be promised of a host that does not answer: its drain waits for it, and its deadline is an intention.
  if (before.state === 'up') refuseUnlessInTime(request, plan);
  await replanPromises(tx, { hosts: [host], moves: plan.moves, during: null, nowMs });
  const id: DrainId = newId('drain');
  const row = await tx.drain.create({
    data: {
      id,
      hostId: host,
      number: (last?.number ?? 0) + 1,
      ownerId: request.owner,
      state: 'waiting',
      deadline: new Date(deadlineMs),
      strategy: request.strategy,
      mode: request.mode,
      moveDisks: request.moveDisks,
      suspendInPlace: request.suspendInPlace,
      confidence: request.confidence,
      returnAfter: request.returnAfterMs === null ? null : new Date(request.returnAfterMs),
      goBack: request.returnVms,
      wasSchedulable: before.schedulable,
      wasAccepting: before.acceptsMigrations,
      reason: request.reason,
      plan: drainOutline(plan) as unknown as Prisma.InputJsonObject,
      createdAt: new Date(nowMs),
    },
  });
  await tx.host.update({ where: { id: host }, data: { schedulable: false, acceptsMigrations: false } });
  await writeDrainEvent(tx, { ...row, state: 'waiting' }, drainEventTypes.accepted, isoOf(nowMs));
  return id;
}

/** Throws drain-impossible unless the plan meets the deadline. A time that no request may name is no time that can be promised. */
export function refuseUnlessInTime(
  { host, deadlineMs, nowMs }: { host: string; deadlineMs: number; nowMs: number },
  plan: DrainPlan,
): void {
  const deadline = isoOf(deadlineMs);
  if (plan.emptyByMs !== null && plan.emptyByMs <= deadlineMs) return;
  const earliestMs = plan.earliestMs === null || isBeyondHorizon(plan.earliestMs, nowMs) ? null : plan.earliestMs;
  const earliest = earliestMs === null ? 'No time can be promised' : `The earliest is ${isoCeil(earliestMs)}`;
  const slowest = plan.moves.reduce<DrainPlan['moves'][number] | null>(
    (most, move) => (most === null || move.meanS > most.meanS ? move : most),
    null,
  );
  const reasons =
    plan.blockers.length > 0
      ? plan.blockers.map(({ vm, why }) => `${vm}: ${why}`).join('; ')
      : `moving ${plan.moves.length} VMs takes ${Math.ceil(plan.meanS)} s and is sure to be done after ${Math.ceil(plan.boundS)} s${
          slowest === null ? '' : `; the longest is ${slowest.vm} with ${Math.ceil(slowest.meanS)} s`
        }`;
  throw new BerthError('drain-impossible', `${host} cannot be empty by ${deadline}. ${earliest}. ${reasons}`, {
    extra: { earliest: isoCeilOrNull(earliestMs) },
  });
}
