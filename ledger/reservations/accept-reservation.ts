import { BerthError } from '../../model/errors.ts';
import { reservationEventTypes } from '../../model/events.ts';
import { newId } from '../../model/ids.ts';
import type { ReservationId } from '../../model/reservation.ts';
import type { DrainPlanInput } from '../../scheduler/drains/drain-input.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { chooseHostsToReserve, type ReservableHost } from '../../scheduler/drains/host-reservation.ts';
import { openDrainInputs } from '../drains/planner-input.ts';
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
  const candidates = await readCandidates(tx, request, named);
  const { startAtMs: deadlineMs, nowMs } = request;
  const readInputs = await openDrainInputs(tx, { ...reservationDrain, deadlineMs, nowMs });
  const { offers, inputs } = await collectOffers({ candidates, count, readInputs }, request);
  const choice = chooseHostsToReserve(offers, count);
  const until = isoOf(request.startAtMs);
  if ('refused' in choice) {
    const reasons = choice.refused.map(({ host, why }) => `${host}: ${why}`).join('; ') || 'there are no more hosts';
    throw new BerthError('drain-impossible', `${count} hosts cannot be empty by ${until}: ${reasons}`);
  }
  const moves = refuseUnlessAllInTime(request, choice.hosts, inputs);
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

type ReadInputs = Awaited<ReturnType<typeof openDrainInputs>>;

/** A host that could be reserved, and why it can't be, as far as its row says. */
interface Candidate {
  host: string;
  problem: string | null;
}

/** The hosts with the least to move away first. Throws not-found for a named host that does not exist. */
async function readCandidates(tx: Transaction, request: ReservationRequest, named: string[] | null): Promise<Candidate[]> {
  const rows = await tx.$queryRaw<{ host: string; up: boolean; drain: string | null; reservation: string | null }[]>`
    SELECT h.id AS host, h.state = 'up' AS up,
      (SELECT d.id FROM "Drain" d WHERE d."hostId" = h.id AND d.state IN ('waiting', 'moving', 'paused', 'held', 'returning')) AS drain,
      (SELECT o."reservationId" FROM "HostHold" o WHERE o."hostId" = h.id AND NOT o.released
        AND o."startAt" < ${isoOf(request.endAtMs)}::timestamptz AND o."endAt" > ${isoOf(request.startAtMs)}::timestamptz LIMIT 1) AS reservation
    FROM "Host" h WHERE h."removedAt" IS NULL AND (${named === null} OR h.id = ANY(${named ?? []})) ORDER BY h."usedMemoryMiB", h.id`;
  const missing = named?.find((id) => !rows.some(({ host }) => host === id));
  if (missing !== undefined) throw new BerthError('not-found', `There is no host ${missing}`);
  return rows.map(({ host, up, drain, reservation }) => {
    if (reservation !== null) return { host, problem: `it is held for ${reservation} at that time` };
    if (drain !== null) return { host, problem: `it is being emptied by ${drain}` };
    return { host, problem: up ? null : 'it does not answer' };
  });
}

/** More than are wanted are planned, since the host with the least memory in use is not always the quickest to empty. */
const spareOffers = 6;
/** Then so many at a time, until enough can be empty by then. */
const offersAtATime = 32;

/** Plans hosts in that order until enough of them can be reserved. */
async function collectOffers(
  { candidates, count, readInputs }: { candidates: readonly Candidate[]; count: number; readInputs: ReadInputs },
  request: ReservationRequest,
): Promise<{ offers: ReservableHost[]; inputs: Map<string, DrainPlanInput> }> {
  const offers = candidates.flatMap(({ host, problem }): ReservableHost[] =>
    problem === null ? [] : [{ host, meanS: 0, refusal: problem }],
  );
  const left = candidates.filter(({ problem }) => problem === null).map(({ host }) => host);
  const inputs = new Map<string, DrainPlanInput>();
  let batch = count + spareOffers;
  while (left.length > 0 && offers.filter(({ refusal }) => refusal === null).length < count) {
    for (const [host, input] of await readInputs(left.splice(0, batch))) {
      inputs.set(host, input);
      const plan = planDrain(input);
      offers.push({ host, meanS: plan.meanS, refusal: reasonLate(request, plan) });
    }
    batch = offersAtATime;
  }
  return { offers: offers.sort((a, b) => (a.host < b.host ? -1 : 1)), inputs };
}

function reasonLate({ startAtMs }: ReservationRequest, plan: DrainPlan): string | null {
  if (plan.emptyByMs !== null && plan.emptyByMs <= startAtMs) return null;
  if (plan.blockers.length > 0) return plan.blockers.map(({ vm, why }) => `${vm}: ${why}`).join(', ');
  return `its ${plan.moves.length} VMs take up to ${Math.ceil(plan.boundS)} s to leave`;
}

/** Plans the drains of all chosen hosts together: each target's capacity counts once, and no chosen host is a target. */
function refuseUnlessAllInTime(
  request: ReservationRequest,
  chosen: readonly string[],
  inputs: ReadonlyMap<string, DrainPlanInput>,
): DrainPlan['moves'] {
  const moves: DrainPlan['moves'] = [];
  const taken = new Map<string, { vcpus: number; memoryMiB: number }>();
  for (const id of chosen) {
    const input = inputs.get(id)!;
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
