import type { Prisma } from '../../generated/prisma/client.ts';
import type {
  Blocker,
  DrainId,
  DrainMode,
  DrainOutline,
  DrainState,
  DrainStrategy,
  Remaining,
  SuspendInPlace,
} from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { DrainData, type DrainEventType, drainEventTypes, eventId } from '../../model/events.ts';
import { type HostId, newId, type VmId } from '../../model/ids.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { replanPromises } from '../leases/replan-promises.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { readDrainInput } from './planner-input.ts';
import { readSuspendedInPlace } from './suspended-in-place.ts';

type Transaction = Prisma.TransactionClient;

export interface DrainRequest {
  host: string;
  deadlineMs: number;
  strategy: DrainStrategy;
  mode: DrainMode;
  /** The disks of its VMs leave the host as well. */
  moveDisks: boolean;
  /** What becomes of VMs that no other host can take. */
  suspendInPlace: SuspendInPlace;
  /** With which the host is to be empty by the deadline. */
  confidence: number;
  returnAfterMs: number | null;
  /** Whether its VMs are brought back then. */
  returnVms: boolean;
  owner: string;
  reason: string | null;
  nowMs: number;
}

/**
 * Accepts a drain within the caller's transaction: the host is closed to new work and to migrations, and the drain has
 * its row, its number and its plan.
 *
 * Throws not-found; conflict while another drain of the host is under way; drain-impossible when the host can't be empty
 * by then, with the earliest time that can be promised and what stands in the way, or when a lease was promised what
 * without this host can't be had.
 */
export async function acceptDrain(tx: Transaction, order: DrainRequest): Promise<DrainId> {
  const { host, deadlineMs, nowMs } = order;
  // Of two drains of one host that are asked for at once, one waits here and then sees the other.
  await lockPlacement(tx);
  const hosts = await tx.$queryRaw<{ schedulable: boolean; acceptsMigrations: boolean }[]>`
    SELECT schedulable, "acceptsMigrations" FROM "Host" WHERE id = ${host} FOR UPDATE`;
  const before = hosts[0];
  if (before === undefined) throw new BerthError('not-found', `There is no host ${host}`);
  const last = await tx.drain.findFirst({ where: { hostId: host }, orderBy: { number: 'desc' } });
  if (last !== null && last.finishedAt === null)
    throw new BerthError('conflict', `Host ${host} is being emptied already: see drain ${last.id}`);
  const input = await readDrainInput(tx, { ...order, drain: '' });
  const plan = planDrain(input);
  refuseUnlessInTime(order, plan);
  await replanPromises(tx, { hosts: [host], moves: plan.moves, during: null, nowMs });
  const id: DrainId = newId('drain');
  const row = await tx.drain.create({
    data: {
      id,
      hostId: host,
      number: (last?.number ?? 0) + 1,
      ownerId: order.owner,
      state: 'waiting',
      deadline: new Date(deadlineMs),
      strategy: order.strategy,
      mode: order.mode,
      moveDisks: order.moveDisks,
      suspendInPlace: order.suspendInPlace,
      confidence: order.confidence,
      returnAfter: order.returnAfterMs === null ? null : new Date(order.returnAfterMs),
      goBack: order.returnVms,
      wasSchedulable: before.schedulable,
      wasAccepting: before.acceptsMigrations,
      reason: order.reason,
      plan: drainOutline(plan) as unknown as Prisma.InputJsonObject,
      createdAt: new Date(nowMs),
    },
  });
  await tx.host.update({ where: { id: host }, data: { schedulable: false, acceptsMigrations: false } });
  await writeDrainEvent(tx, { ...row, state: 'waiting' }, drainEventTypes.accepted, new Date(nowMs).toISOString());
  return id;
}

/** Throws drain-impossible unless the plan is in time. */
export function refuseUnlessInTime({ host, deadlineMs }: { host: string; deadlineMs: number }, plan: DrainPlan): void {
  const deadline = new Date(deadlineMs).toISOString();
  if (plan.emptyByMs !== null && plan.emptyByMs <= deadlineMs) return;
  const earliest = plan.earliestMs === null ? 'No time can be promised' : `The earliest is ${iso(plan.earliestMs)}`;
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
    extra: { earliest: isoOrNull(plan.earliestMs) },
  });
}

const iso = (ms: number): string => new Date(Math.ceil(ms)).toISOString();
const isoOrNull = (ms: number | null): string | null => (ms === null ? null : iso(ms));

/** The plan as it is kept, and shown. */
export function drainOutline(plan: DrainPlan): DrainOutline {
  return {
    strategy: plan.strategy,
    moves: plan.moves.map(({ vm, to, mode, meanS, recoveryS }) => ({ vm: vm as VmId, to: to as HostId, mode, meanS, recoveryS })),
    suspensions: plan.suspensions.map(({ vm, meanS }) => ({ vm: vm as VmId, meanS })),
    leaving: plan.leaving.map(({ vm, byMs }) => ({ vm: vm as VmId, by: isoOrNull(byMs) })),
    blockers: plan.blockers as Blocker[],
    meanS: plan.meanS,
    boundS: plan.boundS,
    startAt: iso(plan.startMs),
    expectedAt: isoOrNull(plan.expectedMs),
    emptyBy: isoOrNull(plan.emptyByMs),
  };
}

interface EventSubject {
  id: string;
  hostId: string;
  ownerId: string;
  state: DrainState;
  deadline: Date;
  reason: string | null;
}

/** The fact for outsiders, in the transaction that makes it true. */
export async function writeDrainEvent(
  tx: Transaction,
  drain: EventSubject,
  type: DrainEventType,
  now: string,
  remaining: readonly Remaining[] = [],
): Promise<void> {
  const inPlace = await readSuspendedInPlace(tx, [drain.id]);
  const data = DrainData.parse({
    drain: drain.id,
    host: drain.hostId,
    state: drain.state,
    deadline: drain.deadline.toISOString(),
    reason: drain.reason,
    remaining,
    suspended: inPlace.map(({ vm }) => vm),
    at: now,
  });
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(drain.id, type)}, ${type}, ${drain.id}, ${drain.ownerId}, ${now}::timestamptz, ${JSON.stringify(data)}::jsonb)
    ON CONFLICT (id) DO NOTHING`;
}
