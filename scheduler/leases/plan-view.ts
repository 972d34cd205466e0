import { earliestFit, type Fit, hostsWithImage } from './capacity/earliest-fit.ts';
import { latestTransferStarts } from './images/image-transfers.ts';
import {
  allocationsOn,
  hasImage,
  type LeaseRecord,
  leadTimeS,
  memoryOpS,
  type PlanState,
  setAllocations,
  transferS,
} from './plan-state.ts';
import { plannedPreemptions } from './preemption.ts';

/** When a lease is expected to begin (or go on) and to end. `firm`: promised; else it may only be better or displaced. */
export interface Quote {
  lease: string;
  phase: LeaseRecord['phase'];
  hosts: string[];
  startAtS: number;
  endAtS: number;
  firm: boolean;
}

/** The whole plan as it stands: what is known of every lease, and what is going to be done. */
export interface PlanView {
  atS: number;
  quotes: Quote[];
  transfers: { image: string; leases: string[]; fromS: number; untilS: number }[];
  suspensions: { lease: string; atS: number }[];
}

/** How many times in a row a quote reckons with being cut by reservations. */
const maxCuts = 20;

/**
 * Draws up the plan. Decisions don't need it: the places of those who wait are worked out here, in the queue's order,
 * and let go again. Linear in the queue times what one place costs.
 */
export function describePlan(state: PlanState, now: number): PlanView {
  const quotes: Quote[] = [];
  for (const record of state.leases.values()) {
    if (record.promise !== null)
      quotes.push(quote(state, record, record.hosts, record.promise.startAt, record.promise.endAt, true));
    else if (record.phase === 'running' || record.phase === 'resuming') {
      quotes.push(quote(state, record, record.hosts, record.runFrom, record.expectedEnd, false));
    }
  }
  quotes.push(...quoteWaiting(state, now));
  const sending = state.transfer;
  const transfers = latestTransferStarts(state).map(({ record, at }) => ({
    image: record.lease.image,
    leases: [record.lease.id],
    fromS: at,
    untilS: at + transferS(state, record),
  }));
  if (sending !== null) {
    transfers.unshift({ image: sending.image, leases: sending.leases, fromS: sending.from, untilS: sending.until });
  }
  const suspensions = plannedPreemptions(state).map(({ record, at }) => ({ lease: record.lease.id, atS: at }));
  return { atS: now, quotes, transfers, suspensions };
}

function quote(
  state: PlanState,
  record: LeaseRecord,
  hosts: readonly number[],
  startAtS: number,
  endAtS: number,
  firm: boolean,
): Quote {
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  return { lease: record.lease.id, phase: record.phase, hosts: ids, startAtS, endAtS, firm };
}

function quoteWaiting(state: PlanState, now: number): Quote[] {
  const waiting = [...state.queue, ...[...state.underway].filter((record) => record.phase === 'suspending')];
  const before = waiting.map((record) => ({ record, layer: record.layer, claims: record.allocations }));
  for (const record of waiting) if (record.phase !== 'suspending') setAllocations(state, record, 'booking', []);
  let linkFreeAt = Math.max(now, state.transfer?.until ?? now);
  const quotes: Quote[] = [];
  for (const record of waiting) {
    const imageAt = isImageOnAnyHost(state, record, now) ? now : linkFreeAt + transferS(state, record);
    if (record.phase === 'waiting' && imageAt > now) linkFreeAt = imageAt;
    const places = fitsUntilDone(state, record, Math.max(now, imageAt), now);
    const first = places[0];
    if (first === undefined) continue;
    quotes.push(quote(state, record, first.hosts, first.from, places.at(-1)!.to, false));
    if (record.phase !== 'suspending') {
      setAllocations(
        state,
        record,
        'booking',
        places.flatMap((place) => allocationsOn(place.hosts, place.from, place.to)),
      );
    }
  }
  for (const { record, layer, claims } of before) setAllocations(state, record, layer, claims);
  return quotes;
}

function isImageOnAnyHost(state: PlanState, record: LeaseRecord, now: number): boolean {
  return record.phase !== 'waiting' || hostsWithImage(state, record, now).length >= 1;
}

/** One place after the other, until all of the work has one; each cut costs a suspend and a resume. */
function fitsUntilDone(state: PlanState, record: LeaseRecord, notBefore: number, now: number): Fit[] {
  const places: Fit[] = [];
  const probe = { ...record, allocations: [] as LeaseRecord['allocations'] };
  if (probe.phase === 'suspending') probe.phase = 'suspended';
  const ready = state.hosts.flatMap((host, i) => (host.up && (notBefore > now || hasImage(state, record, i, now)) ? [i] : []));
  let from = notBefore;
  for (let cuts = 0; cuts < maxCuts && probe.remainingWorkS > 0; cuts++) {
    const place = earliestFit(state, probe, from, ready);
    if (place === null) return places;
    places.push(place);
    const op = memoryOpS(state, place.hosts[0]!, record.shape);
    const startupS = probe.phase === 'suspended' ? op : leadTimeS(state, record);
    const availableS = place.to - place.from - startupS;
    if (availableS >= probe.remainingWorkS) {
      place.to = place.from + startupS + probe.remainingWorkS;
      return places;
    }
    probe.remainingWorkS -= Math.max(1, availableS - op);
    probe.phase = 'suspended';
    probe.hosts = place.hosts;
    from = place.to;
  }
  return places;
}
