import type { Prisma } from '../../generated/prisma/client.ts';
import type { Remaining } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { eventId, ReservationData, type ReservationEventType, reservationEventTypes } from '../../model/events.ts';
import { newId } from '../../model/ids.ts';
import type { ReservationId, ReservationState } from '../../model/reservation.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { chooseHostsToReserve, type ReservableHost } from '../../scheduler/drains/host-reservation.ts';
import { readDrainInput } from '../drains/planner-input.ts';
import { replanPromises } from '../leases/replan-promises.ts';
import { lockPlacement } from '../placement/lock-placement.ts';

type Transaction = Prisma.TransactionClient;

export interface ReservationRequest {
  /** So many of the site's choice, or these. */
  wanted: { nodes: number } | { hosts: string[] };
  startAtMs: number;
  endAtMs: number;
  purpose: string;
  returnVms: boolean;
  owner: string;
  nowMs: number;
}

/** As drains have it where nothing else is asked for. */
export const defaultConfidence = 0.99;

/**
 * Accepts a reservation of whole hosts within the caller's transaction: those that cost least to vacate, or the named
 * ones, are held for that time. They are closed and emptied later, just in time.
 *
 * Throws not-found for a host that is none; drain-impossible when too few can be empty by then, with each one's reason.
 */
export async function acceptReservation(tx: Transaction, order: ReservationRequest): Promise<ReservationId> {
  // One at a time, and none while VMs are placed: what is promised here is seen by the next.
  await lockPlacement(tx);
  const named = 'hosts' in order.wanted ? order.wanted.hosts : null;
  const count = 'hosts' in order.wanted ? order.wanted.hosts.length : order.wanted.nodes;
  const offers = await readOffers(tx, order, named);
  const choice = chooseHostsToReserve(offers, count);
  const until = new Date(order.startAtMs).toISOString();
  if ('refused' in choice) {
    const reasons = choice.refused.map(({ host, why }) => `${host}: ${why}`).join('; ') || 'there are no more hosts';
    throw new BerthError('drain-impossible', `${count} hosts cannot be empty by ${until}: ${reasons}`);
  }
  const moves = await refuseUnlessAllInTime(tx, order, choice.hosts);
  const during = { fromMs: order.startAtMs, untilMs: order.endAtMs };
  await replanPromises(tx, { hosts: choice.hosts, moves, during, nowMs: order.nowMs });
  const id: ReservationId = newId('reservation');
  const [startAt, endAt] = [new Date(order.startAtMs), new Date(order.endAtMs)];
  await tx.hostReservation.create({
    data: {
      id,
      ownerId: order.owner,
      state: 'scheduled',
      startAt,
      endAt,
      purpose: order.purpose,
      bringBack: order.returnVms,
      createdAt: new Date(order.nowMs),
      holds: { create: choice.hosts.map((hostId) => ({ hostId, startAt, endAt })) },
    },
  });
  await writeReservationEvent(tx, id, reservationEventTypes.accepted, new Date(order.nowMs).toISOString());
  return id;
}

async function readOffers(tx: Transaction, order: ReservationRequest, named: string[] | null): Promise<ReservableHost[]> {
  const hosts = await tx.host.findMany({
    ...(named === null ? {} : { where: { id: { in: named } } }),
    orderBy: { id: 'asc' },
    include: {
      holds: {
        where: { released: false, startAt: { lt: new Date(order.endAtMs) }, endAt: { gt: new Date(order.startAtMs) } },
      },
      drains: { where: { finishedAt: null } },
    },
  });
  const missing = named?.find((id) => !hosts.some((host) => host.id === id));
  if (missing !== undefined) throw new BerthError('not-found', `There is no host ${missing}`);
  const offers: ReservableHost[] = [];
  for (const host of hosts) {
    const plan = planDrain(await readPlanInput(tx, order, host.id));
    const hold = host.holds[0];
    const drain = host.drains[0];
    let problem = reasonLate(order, plan);
    if (host.state !== 'up') problem = 'it does not answer';
    if (drain !== undefined) problem = `it is being emptied by ${drain.id}`;
    if (hold !== undefined) problem = `it is held for ${hold.reservationId} at that time`;
    offers.push({ host: host.id, meanS: plan.meanS, refusal: problem });
  }
  return offers;
}

const readPlanInput = (tx: Transaction, { startAtMs, nowMs }: ReservationRequest, host: string) =>
  readDrainInput(tx, {
    host,
    drain: '',
    deadlineMs: startAtMs,
    strategy: 'auto',
    mode: 'auto',
    moveDisks: false,
    suspendInPlace: 'never' as const,
    confidence: defaultConfidence,
    nowMs,
  });

function reasonLate({ startAtMs }: ReservationRequest, plan: DrainPlan): string | null {
  if (plan.emptyByMs !== null && plan.emptyByMs <= startAtMs) return null;
  if (plan.blockers.length > 0) return plan.blockers.map(({ vm, why }) => `${vm}: ${why}`).join(', ');
  return `its ${plan.moves.length} VMs take up to ${Math.ceil(plan.boundS)} s to leave`;
}

/** What one host's VMs take elsewhere is not there for the next one's; and none of the chosen takes any. */
async function refuseUnlessAllInTime(
  tx: Transaction,
  order: ReservationRequest,
  chosen: readonly string[],
): Promise<DrainPlan['moves']> {
  const moves: DrainPlan['moves'] = [];
  const taken = new Map<string, { vcpus: number; memoryMiB: number }>();
  for (const id of chosen) {
    const question = await readPlanInput(tx, order, id);
    const hosts = question.hosts.map((host) => {
      const more = taken.get(host.id) ?? { vcpus: 0, memoryMiB: 0 };
      const used = { vcpus: host.used.vcpus + more.vcpus, memoryMiB: host.used.memoryMiB + more.memoryMiB };
      return { ...host, used, acceptsMigrations: host.acceptsMigrations && !chosen.includes(host.id) };
    });
    const plan = planDrain({ ...question, hosts });
    const problem = reasonLate(order, plan);
    if (problem !== null)
      throw new BerthError('drain-impossible', `${id} cannot be empty by then together with ${chosen.join(', ')}: ${problem}`);
    moves.push(...plan.moves);
    for (const { vm, to } of plan.moves) {
      const size = question.vms.find((one) => one.id === vm);
      const here = taken.get(to) ?? { vcpus: 0, memoryMiB: 0 };
      taken.set(to, {
        vcpus: here.vcpus + (size?.vcpus ?? 0),
        memoryMiB: here.memoryMiB + (size?.memoryMiB ?? 0),
      });
    }
  }
  return moves;
}

/** The fact for outsiders, in the transaction that makes it true. */
export async function writeReservationEvent(
  tx: Transaction,
  id: ReservationId,
  type: ReservationEventType,
  now: string,
  problem: readonly Remaining[] = [],
): Promise<void> {
  const row = await tx.hostReservation.findUniqueOrThrow({ where: { id }, include: { holds: { orderBy: { hostId: 'asc' } } } });
  const data = ReservationData.parse({
    reservation: id,
    hosts: row.holds.map(({ hostId }) => hostId),
    state: row.state satisfies ReservationState,
    startAt: row.startAt.toISOString(),
    endAt: row.endAt.toISOString(),
    purpose: row.purpose,
    problem,
    at: now,
  });
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(id, type)}, ${type}, ${id}, ${row.ownerId}, ${now}::timestamptz, ${JSON.stringify(data)}::jsonb)
    ON CONFLICT (id) DO NOTHING`;
}
