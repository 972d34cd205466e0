import { earliestFit, type Fit, hostsWithImage } from './capacity/earliest-fit.ts';
import { allocationsOn, type LeaseRecord, leadTimeS, memoryOpS, type PlanState, setAllocations } from './plan-state.ts';
import { plannedPreemptions } from './preemption.ts';

/**
 * When a lease is expected to start (or resume) and to end. `firm`: promised; otherwise it may start earlier, or be
 * preempted.
 */
export interface Quote {
  lease: string;
  phase: LeaseRecord['phase'];
  hosts: string[];
  startAtS: number;
  endAtS: number;
  firm: boolean;
}

/** The current plan: a quote for every lease, and the planned suspensions. */
export interface PlanView {
  quotes: Quote[];
  suspensions: { lease: string; atS: number }[];
}

/** The maximum number of successive preemptions that a quote includes. */
const maxCuts = 20;

/**
 * Describes the plan. Decisions don't need it: it places waiting leases in the queue's order and removes their bookings
 * afterwards. Costs one search for a fit per waiting lease and preemption.
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
  const suspensions = plannedPreemptions(state).map(({ record, at }) => ({ lease: record.lease.id, atS: at }));
  return { quotes, suspensions };
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
  const before = waiting.map((record) => ({ record, layer: record.layer, allocations: record.allocations }));
  for (const record of waiting) if (record.phase !== 'suspending') setAllocations(state, record, 'booking', []);
  let linkFreeAt = state.images.linkFreeAt(now);
  const quotes: Quote[] = [];
  for (const record of waiting) {
    const imageAt = isImageOnAnyHost(state, record, now) ? now : linkFreeAt + state.images.transferS(record);
    if (record.phase === 'waiting' && imageAt > now) linkFreeAt = imageAt;
    const fits = fitsUntilDone(state, record, Math.max(now, imageAt), now);
    const first = fits[0];
    if (first === undefined) continue;
    quotes.push(quote(state, record, first.hosts, first.from, fits.at(-1)!.to, false));
    if (record.phase !== 'suspending') {
      setAllocations(
        state,
        record,
        'booking',
        fits.flatMap((fit) => allocationsOn(fit.hosts, fit.from, fit.to)),
      );
    }
  }
  for (const { record, layer, allocations } of before) setAllocations(state, record, layer, allocations);
  return quotes;
}

function isImageOnAnyHost(state: PlanState, record: LeaseRecord, now: number): boolean {
  return record.phase !== 'waiting' || hostsWithImage(state, record, now).length >= 1;
}

/** Consecutive fits until all of the work is done; each preemption costs a suspend and a resume. */
function fitsUntilDone(state: PlanState, record: LeaseRecord, notBefore: number, now: number): Fit[] {
  const fits: Fit[] = [];
  const probe = { ...record, allocations: [] as LeaseRecord['allocations'] };
  if (probe.phase === 'suspending') probe.phase = 'suspended';
  const ready = state.hosts.flatMap((host, i) =>
    host.up && (notBefore > now || state.images.isAtHost(record, i, now)) ? [i] : [],
  );
  let from = notBefore;
  for (let cuts = 0; cuts < maxCuts && probe.remainingWorkS > 0; cuts++) {
    const fit = earliestFit(state, probe, from, ready);
    if (fit === null) return fits;
    fits.push(fit);
    const op = memoryOpS(state, fit.hosts[0]!, record.shape);
    const startupS = probe.phase === 'suspended' ? op : leadTimeS(state, record);
    const availableS = fit.to - fit.from - startupS;
    if (availableS >= probe.remainingWorkS) {
      fit.to = fit.from + startupS + probe.remainingWorkS;
      return fits;
    }
    probe.remainingWorkS -= Math.max(1, availableS - op);
    probe.phase = 'suspended';
    probe.hosts = fit.hosts;
    from = fit.to;
  }
  return fits;
}
