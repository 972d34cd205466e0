import { BerthError } from '../../model/errors.ts';
import type { LeaseSpec } from '../../model/task.ts';
import type { AdmissionDecision, Alternative, RefusalReason } from '../../scheduler/leases/admission.ts';
import { changedFacts, staleGroups } from '../../scheduler/leases/site/plan-acts.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, requestLimits, type Transaction } from '../transaction.ts';
import { stillFits } from './apply-promise.ts';
import type { AdmissionPlan, LeasePromise, LeaseRequest } from './plan/admission.ts';
import type { SiteScope } from './plan/ledger-site.ts';
import { inPlan } from './plan/plan-thread.ts';
import { readFacts } from './plan/read-facts.ts';
import { readSite } from './plan/read-site.ts';
import { writePromises } from './write-promises.ts';

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

/**
 * Submits the request to a plan of this moment. First to a plan in which work under way never ends: most requests fit beside
 * it, and the larger the site, the more. One that doesn't is submitted to a plan with the ends of that work, and where it
 * needs work to make way, or is refused, to one that has all leases.
 */
async function planRequest(tx: Transaction, request: LeaseRequest): Promise<AdmissionPlan> {
  // The earliest start of best-effort work depends on those ends.
  const scopes: SiteScope['others'][] = request.spec.kind === 'bestEffort' ? ['ending'] : ['forever', 'ending'];
  for (const others of scopes) {
    const plan = await inPlan('admission', await readSite(tx, { hosts: [], others }), request);
    if (plan.decision.accepted && !plan.needsLeases) return plan;
  }
  // Which work has to make way where is a question to all of it. On a large site it is answered in seconds, in which the
  // server must not take this process for a stopped one (ledger/client.ts).
  await tx.$executeRaw`SELECT set_config('idle_in_transaction_session_timeout', ${String(requestLimits.timeout)}, true)`;
  return inPlan('admission', await readSite(tx, { hosts: [], others: 'leases' }), request);
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

function refusalOf(decision: Extract<AdmissionDecision, { accepted: false }>, teardownS: number): LeaseRefusal {
  const { reason, detail, alternatives } = decision;
  return { reason, detail, alternatives: offeredAlternatives(alternatives, teardownS) };
}

/** Plans the request, or throws lease-refused with the reason and up to three alternatives. */
async function planPromise(tx: Transaction, request: LeaseRequest): Promise<NonNullable<AdmissionPlan['promised']>> {
  const { decision, teardownS, promised } = await planRequest(tx, request);
  if (!decision.accepted) {
    const { reason, detail, alternatives } = refusalOf(decision, teardownS);
    throw new BerthError('lease-refused', `This lease cannot be had: ${detail} (${reason})`, { extra: { reason, alternatives } });
  }
  if (promised === null) throw new Error('BUG: a lease with a fixed start was accepted without a promise');
  return promised;
}

/**
 * Promises a lease within the caller's transaction, or throws lease-refused. Writes the hosts of other promises that it
 * displaces; the caller inserts the lease's own row. Takes the placement lock to the end of the transaction.
 *
 * It is planned before the lock is taken, from what is read then. Under the lock is checked that what the plan relies on is
 * still so; where it is not, the request is planned again under it. A refusal promises nothing, and needs no lock.
 */
export async function promiseLease(tx: Transaction, request: LeaseRequest): Promise<LeasePromise> {
  const early = await planPromise(tx, request);
  await lockPlacement(tx);
  const { promise, others } = (await stillHolds(tx, early)) ? early : await planPromise(tx, request);
  await writePromises(tx, others);
  return promise;
}

/** Whether a promise fits beside all that there is now, or nothing has changed of what its plan relies on. */
async function stillHolds(
  tx: Transaction,
  { others, needs, groups, facts }: NonNullable<AdmissionPlan['promised']>,
): Promise<boolean> {
  if (others.length === 0 && (await stillFits(tx, needs))) return true;
  const now = await readFacts(tx, groups);
  return staleGroups(groups, changedFacts(facts, now.facts)).size === 0;
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
  const { decision, teardownS, promised, expected } = await planRequest(tx, request);
  if (!decision.accepted)
    return { accepted: false, startAt: null, endAt: null, firm: false, refused: refusalOf(decision, teardownS) };
  const startAtS = promised === null ? expected?.startAtS : promised.promise.startAtMs / 1000;
  const endAtS = promised === null ? expected?.endAtS : promised.promise.endAtMs / 1000;
  return {
    accepted: true,
    startAt: startAtS === undefined ? null : isoCeiling(startAtS),
    endAt: endAtS === undefined ? null : isoCeiling(endAtS),
    firm: promised !== null,
    refused: null,
  };
}
