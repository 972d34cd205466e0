import { BerthError } from '../../model/errors.ts';
import { reservationEventTypes } from '../../model/events.ts';
import { newId } from '../../model/ids.ts';
import type { ReservationId } from '../../model/reservation.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { chooseHostsToReserve, type ReservableHost } from '../../scheduler/drains/host-reservation.ts';
import { readDrainInput } from '../drains/planner-input.ts';
import { replanPromises } from '../leases/replan-promises.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { writeReservationEvent } from './reservation-event.ts';

export interface ReservationRequest {
  /** This number of hosts, which the site chooses, or these hosts. */
  wanted: { nodes: number } | { hosts: string[] };
  startAtMs: number;
  endAtMs: number;
  purpose: string;
  returnVms: boolean;
  owner: string;
  nowMs: number;
}

/** The drains of a reservation's hosts have the default options of a drain. */
export const reservationDrain = {
  drain: '',
  strategy: 'auto',
  mode: 'auto',
  moveDisks: false,
  suspendInPlace: 'never',
  confidence: 0.99,
} as const;

/**
 * Accepts a reservation of whole hosts within the caller's transaction: holds the hosts that take least time to empty, or
 * the named ones, for that time. They are closed and emptied later, just in time.
 *
 * Throws not-found for an unknown host; drain-impossible when too few hosts can be empty by then, with the reason of each.
 */
export async function acceptReservation(tx: Transaction, request: ReservationRequest): Promise<ReservationId> {
  // Concurrent reservations and placements wait here, and then see the holds of this one.
  await lockPlacement(tx);
  const named = 'hosts' in request.wanted ? request.wanted.hosts : null;
  const count = 'hosts' in request.wanted ? request.wanted.hosts.length : request.wanted.nodes;
  const offers = await readOffers(tx, request, named);
  const choice = chooseHostsToReserve(offers, count);
  const until = isoOf(request.startAtMs);
  if ('refused' in choice) {
    const reasons = choice.refused.map(({ host, why }) => `${host}: ${why}`).join('; ') || 'there are no more hosts';
    throw new BerthError('drain-impossible', `${count} hosts cannot be empty by ${until}: ${reasons}`);
  }
  const moves = await refuseUnlessAllInTime(tx, request, choice.hosts);
  const during = { fromMs: request.startAtMs, untilMs: request.endAtMs };
  await replanPromises(tx, { hosts: choice.hosts, moves, during, nowMs: request.nowMs });
  const id: ReservationId = newId('reservation');
  const [startAt, endAt] = [new Date(request.startAtMs), new Date(request.endAtMs)];
  await tx.hostReservation.create({
    data: {
      id,
      ownerId: request.owner,
      state: 'scheduled',
      startAt,
      endAt,
      purpose: request.purpose,
      bringBack: request.returnVms,
      createdAt: new Date(request.nowMs),
      holds: { create: choice.hosts.map((hostId) => ({ hostId, startAt, endAt })) },
    },
  });
  await writeReservationEvent(tx, id, reservationEventTypes.accepted, isoOf(request.nowMs));
  return id;
}

async function readOffers(tx: Transaction, request: ReservationRequest, named: string[] | null): Promise<ReservableHost[]> {
  const hosts = await tx.host.findMany({
    ...(named === null ? {} : { where: { id: { in: named } } }),
    orderBy: { id: 'asc' },
    include: {
      holds: {
        where: { released: false, startAt: { lt: new Date(request.endAtMs) }, endAt: { gt: new Date(request.startAtMs) } },
      },
      drains: { where: { finishedAt: null } },
    },
  });
  const missing = named?.find((id) => !hosts.some((host) => host.id === id));
  if (missing !== undefined) throw new BerthError('not-found', `There is no host ${missing}`);
  const offers: ReservableHost[] = [];
  for (const host of hosts) {
    const plan = planDrain(await readPlanInput(tx, request, host.id));
    const hold = host.holds[0];
    const drain = host.drains[0];
    let problem = reasonLate(request, plan);
    if (host.state !== 'up') problem = 'it does not answer';
    if (drain !== undefined) problem = `it is being emptied by ${drain.id}`;
    if (hold !== undefined) problem = `it is held for ${hold.reservationId} at that time`;
    offers.push({ host: host.id, meanS: plan.meanS, refusal: problem });
  }
  return offers;
}

const readPlanInput = (tx: Transaction, { startAtMs, nowMs }: ReservationRequest, host: string) =>
  readDrainInput(tx, { ...reservationDrain, host, deadlineMs: startAtMs, nowMs });

function reasonLate({ startAtMs }: ReservationRequest, plan: DrainPlan): string | null {
  if (plan.emptyByMs !== null && plan.emptyByMs <= startAtMs) return null;
  if (plan.blockers.length > 0) return plan.blockers.map(({ vm, why }) => `${vm}: ${why}`).join(', ');
  return `its ${plan.moves.length} VMs take up to ${Math.ceil(plan.boundS)} s to leave`;
}

/** Plans the drains of all chosen hosts together: each target's capacity counts once, and no chosen host is a target. */
async function refuseUnlessAllInTime(
  tx: Transaction,
  request: ReservationRequest,
  chosen: readonly string[],
): Promise<DrainPlan['moves']> {
  const moves: DrainPlan['moves'] = [];
  const taken = new Map<string, { vcpus: number; memoryMiB: number }>();
  for (const id of chosen) {
    const input = await readPlanInput(tx, request, id);
    const hosts = input.hosts.map((host) => {
      const planned = taken.get(host.id) ?? { vcpus: 0, memoryMiB: 0 };
      const used = { vcpus: host.used.vcpus + planned.vcpus, memoryMiB: host.used.memoryMiB + planned.memoryMiB };
      return { ...host, used, acceptsMigrations: host.acceptsMigrations && !chosen.includes(host.id) };
    });
    const plan = planDrain({ ...input, hosts });
    const problem = reasonLate(request, plan);
    if (problem !== null)
      throw new BerthError('drain-impossible', `${id} cannot be empty by then together with ${chosen.join(', ')}: ${problem}`);
    moves.push(...plan.moves);
    for (const { vm, to } of plan.moves) {
      const size = input.vms.find((one) => one.id === vm);
      const planned = taken.get(to) ?? { vcpus: 0, memoryMiB: 0 };
      taken.set(to, {
        vcpus: planned.vcpus + (size?.vcpus ?? 0),
        memoryMiB: planned.memoryMiB + (size?.memoryMiB ?? 0),
      });
    }
  }
  return moves;
}
