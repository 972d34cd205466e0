import { BerthError } from '../../model/errors.ts';
import type { Resources } from '../../model/host.ts';
import type { LeaseSpec } from '../../model/task.ts';
import type { AdmissionDecision, Alternative, RefusalReason } from '../../scheduler/leases/admission.ts';
import { vmStartAt } from '../../scheduler/leases/plan-state.ts';
import { changedPromises, hostsToList, planSite } from '../../scheduler/leases/site/site-plan.ts';
import { plannedLease, type SiteLease } from '../../scheduler/leases/site/site-state.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, requestLimits, type Transaction } from '../transaction.ts';
import { type PlannedPromise, stillFits } from './apply-promise.ts';
import { type LedgerSite, readSite, type SiteScope } from './read-site.ts';

/** A request of VMs of one size, all or none, for a time. */
export interface LeaseRequest {
  id: string;
  spec: LeaseSpec;
  nodes: number;
  /** The disk includes the image's own size. */
  each: Resources;
  image: { id: string; sizeMiB: number };
  nowMs: number;
}

/** As the lease's row has it; times in ms since 1970. */
export interface LeasePromise {
  startAtMs: number;
  endAtMs: number;
  hosts: string[];
}

/** An interval that the site could promise instead. */
interface OfferedAlternative {
  change: Alternative['change'];
  startAt: string;
  nodes: number;
  durationS: number;
}

/** Rounds up, so that an offered time is never earlier than the one that could be promised. */
const isoCeiling = (seconds: number): string => isoOf(Math.ceil(seconds * 1000 - 1e-3));

/** Whether a lease has a fixed start, and so is promised or refused when it is accepted. */
export function isPromised(spec: LeaseSpec): boolean {
  return spec.kind !== 'bestEffort' || spec.deadline !== undefined;
}

function toSiteLease(request: LeaseRequest, site: LedgerSite): SiteLease {
  const { spec, image, nowMs } = request;
  return {
    id: request.id,
    kind: spec.kind,
    submittedAtS: nowMs / 1000,
    durationS: spec.durationS,
    nodes: request.nodes,
    perVm: request.each,
    priority: spec.priority ?? 0,
    preemptible: spec.preemptible ?? true,
    startAtS: spec.startAt === undefined ? null : Date.parse(spec.startAt) / 1000,
    phase: 'waiting',
    hosts: [],
    bound: false,
    runFromS: null,
    leftS: null,
    operation: null,
    leadS: site.leadOf({ imageId: image.id, imageMiB: image.sizeMiB, each: request.each }),
  };
}

interface PlannedAdmission {
  site: LedgerSite;
  decision: AdmissionDecision;
  plan: ReturnType<typeof planSite>;
}

/**
 * Submits the request to a plan of this moment. Its changes exist only in the returned planner. First to a plan in which work
 * under way never ends: most requests fit beside it, and the larger the site, the more. One that doesn't is submitted to a
 * plan with the ends of that work, and where it needs work to make way, or is refused, to one that has all leases.
 */
async function planAdmission(tx: Transaction, request: LeaseRequest): Promise<PlannedAdmission> {
  // The earliest start of best-effort work depends on those ends.
  const scopes: SiteScope[] = request.spec.kind === 'bestEffort' ? [[]] : ['promises', []];
  for (const scope of scopes) {
    const planned = submitTo(await readSite(tx, scope), request);
    const { site, decision, plan } = planned;
    if (decision.accepted && hostsToList(site, plan.planner.state, () => true).length === 0) return planned;
  }
  // Which work has to make way where is a question to all of it. On a large site it is answered in seconds, in which the
  // server must not take this process for a stopped one (ledger/client.ts).
  await tx.$executeRaw`SELECT set_config('idle_in_transaction_session_timeout', ${String(requestLimits.timeout)}, true)`;
  return submitTo(await readSite(tx, 'all'), request);
}

function submitTo(site: LedgerSite, request: LeaseRequest): PlannedAdmission {
  const now = request.nowMs / 1000;
  const plan = planSite(site, site.figures, now);
  const lease = plannedLease(toSiteLease(request, site), site.figures);
  const { deadline } = request.spec;
  const deadlineAtS = deadline === undefined ? undefined : Date.parse(deadline) / 1000;
  return { site, decision: plan.planner.submit({ ...lease, deadlineAtS }, now), plan };
}

/** Converts the plan's times to the user's, which exclude the tail that the plan appends. */
function offeredAlternatives(alternatives: readonly Alternative[], tailS: number): OfferedAlternative[] {
  return alternatives.flatMap(({ change, startAtS, nodes, durationS }) => {
    const userS = Math.floor(durationS - tailS);
    return userS < 1 ? [] : [{ change, startAt: isoCeiling(startAtS), nodes, durationS: userS }];
  });
}

export interface LeaseRefusal {
  reason: RefusalReason;
  detail: string;
  alternatives: OfferedAlternative[];
}

function refusalOf(decision: Extract<AdmissionDecision, { accepted: false }>, site: LedgerSite): LeaseRefusal {
  const alternatives = offeredAlternatives(decision.alternatives, site.figures.teardownS);
  return { reason: decision.reason, detail: decision.detail, alternatives };
}

/**
 * Promises a lease within the caller's transaction, or throws lease-refused with the reason and up to three alternatives.
 * Writes the hosts of other promises that it displaces; the caller inserts the lease's own row. Takes the placement lock to
 * the end of the transaction.
 *
 * Most promises fit beside all that runs and is promised. Such a one is planned before the lock is taken, from what is read
 * then, and only checked under it; where what it relied on has changed meanwhile, or it needs more, it is planned under it.
 */
export async function promiseLease(tx: Transaction, request: LeaseRequest): Promise<LeasePromise> {
  const planned = await planBesideAll(tx, request);
  await lockPlacement(tx);
  if (planned !== null && (await stillFits(tx, planned.needs))) return planned.promise;
  const admission = await planAdmission(tx, request);
  const { site, decision } = admission;
  if (!decision.accepted) {
    const { reason, detail, alternatives } = refusalOf(decision, site);
    throw new BerthError('lease-refused', `This lease cannot be had: ${detail} (${reason})`, { extra: { reason, alternatives } });
  }
  const { promise, others } = toPromise(admission, request);
  await writePromises(tx, others);
  return promise;
}

/** The promise of an accepted request, and the hosts of other promises that the plan has changed for it. */
function toPromise({ site, decision, plan }: PlannedAdmission, request: LeaseRequest) {
  if (!decision.accepted || decision.promise === null)
    throw new Error('BUG: a lease with a fixed start was accepted without a promise');
  const changed = changedPromises(site, plan.planner.state);
  const own = changed.find(({ lease }) => lease === request.id);
  if (own === undefined) throw new Error('BUG: a lease was promised without hosts');
  const { startAtS } = decision.promise;
  const promise: LeasePromise = {
    startAtMs: startAtS * 1000,
    endAtMs: (startAtS + request.spec.durationS) * 1000,
    hosts: own.hosts,
  };
  return { promise, others: changed.filter((one) => one !== own) };
}

/** A promise that relies on nothing but free capacity of its hosts; null where it has to be planned under the lock. */
async function planBesideAll(
  tx: Transaction,
  request: LeaseRequest,
): Promise<{ promise: LeasePromise; needs: PlannedPromise } | null> {
  if (request.spec.kind === 'bestEffort') return null;
  const admission = submitTo(await readSite(tx, 'promises'), request);
  if (!admission.decision.accepted) return null;
  const { promise, others } = toPromise(admission, request);
  if (others.length > 0) return null;
  const { state } = admission.plan.planner;
  const record = state.leases.get(request.id)!;
  const needs = {
    hosts: promise.hosts,
    each: request.each,
    fromMs: vmStartAt(state, record) * 1000,
    untilMs: record.promise!.endAt * 1000,
  };
  return { promise, needs };
}

/** Writes the hosts that the plan has now for promises that have not begun. */
export async function writePromises(
  tx: Transaction,
  promises: readonly { lease: string; hosts: string[]; bound: boolean }[],
): Promise<void> {
  if (promises.length === 0) return;
  await tx.$executeRaw`
    UPDATE "Lease" l SET "plannedHosts" = ARRAY(SELECT jsonb_array_elements_text(p.hosts)), bound = p.bound
    FROM jsonb_to_recordset(${JSON.stringify(promises)}::jsonb) AS p(lease text, hosts jsonb, bound boolean)
    WHERE l.id = p.lease`;
}

export interface LeaseQuote {
  accepted: boolean;
  startAt: string | null;
  endAt: string | null;
  /** Whether it would be promised; otherwise the times may still change. */
  firm: boolean;
  refused: LeaseRefusal | null;
}

/** When a lease would start and end if it were requested now. Changes nothing. */
export async function quoteLease(tx: Transaction, request: LeaseRequest): Promise<LeaseQuote> {
  const { site, decision, plan } = await planAdmission(tx, request);
  if (!decision.accepted) return { accepted: false, startAt: null, endAt: null, firm: false, refused: refusalOf(decision, site) };
  const now = request.nowMs / 1000;
  const quote = plan.planner.plan(now).quotes.find((one) => one.lease === request.id);
  const startAtS = decision.promise?.startAtS ?? quote?.startAtS;
  const endAtS =
    decision.promise === null
      ? quote && quote.endAtS - site.figures.teardownS
      : decision.promise.startAtS + request.spec.durationS;
  return {
    accepted: true,
    startAt: startAtS === undefined ? null : isoCeiling(startAtS),
    endAt: endAtS === undefined ? null : isoCeiling(endAtS),
    firm: decision.promise !== null,
    refused: null,
  };
}
