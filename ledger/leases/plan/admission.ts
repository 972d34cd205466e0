import type { Resources } from '../../../model/host.ts';
import type { LeaseSpec } from '../../../model/task.ts';
import type { AdmissionDecision } from '../../../scheduler/leases/admission.ts';
import { vmStartAt } from '../../../scheduler/leases/plan-state.ts';
import { type ActGroups, groupActs, type PlanFacts } from '../../../scheduler/leases/site/plan-acts.ts';
import { changedPromises, hostsToList, planSite, type SiteDecision } from '../../../scheduler/leases/site/site-plan.ts';
import { plannedLease, type SiteLease } from '../../../scheduler/leases/site/site-state.ts';
import type { LedgerSite } from './ledger-site.ts';
import { plannedFacts } from './plan-facts.ts';

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

/** Hosts that a plan has chosen for a promise; the interval begins with its VMs and ends when they are removed. */
export interface PlannedPromise {
  hosts: readonly string[];
  each: Resources;
  fromMs: number;
  untilMs: number;
}

/** A promise, the other promises whose hosts change for it, and what all of that relies on. */
interface PromisePlan {
  promise: LeasePromise;
  others: SiteDecision['promises'];
  needs: PlannedPromise;
  groups: ActGroups;
  facts: PlanFacts;
}

export interface AdmissionPlan {
  decision: AdmissionDecision;
  /** That the plan appends to each lease's time. */
  teardownS: number;
  /** It doesn't count: work that the plan has not as leases would have to make way. */
  needsLeases: boolean;
  /** null: it is refused, or has no promise. */
  promised: PromisePlan | null;
  /** Of best-effort work without a promise: when it would start and end. */
  expected: { startAtS: number; endAtS: number } | null;
}

/** Submits the request to a plan of this moment, which is dropped with it. */
export function planAdmission(site: LedgerSite, request: LeaseRequest): AdmissionPlan {
  const now = request.nowMs / 1000;
  const { planner } = planSite(site, site.figures, now);
  const { teardownS } = site.figures;
  const { deadline } = request.spec;
  const deadlineAtS = deadline === undefined ? undefined : Date.parse(deadline) / 1000;
  const decision = planner.submit({ ...plannedLease(toSiteLease(request, site), site.figures), deadlineAtS }, now);
  const none = { decision, teardownS, needsLeases: false, promised: null, expected: null };
  if (!decision.accepted) return none;
  if (hostsToList(site, planner.state, () => true).length > 0) return { ...none, needsLeases: true };
  if (decision.promise !== null)
    return { ...none, promised: planPromise(site, planner.state, request, decision.promise.startAtS) };
  const quote = planner.plan(now).quotes.find(({ lease }) => lease === request.id);
  return { ...none, expected: quote === undefined ? null : { startAtS: quote.startAtS, endAtS: quote.endAtS - teardownS } };
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

function planPromise(
  site: LedgerSite,
  state: ReturnType<typeof planSite>['planner']['state'],
  request: LeaseRequest,
  startAtS: number,
): PromisePlan {
  const changed = changedPromises(site, state);
  const own = changed.find(({ lease }) => lease === request.id);
  const record = state.leases.get(request.id);
  if (own === undefined || record === undefined) throw new Error('BUG: a lease was promised without hosts');
  const others = changed.filter((one) => one !== own);
  const groups = groupActs(changed, site.leases);
  return {
    promise: { startAtMs: startAtS * 1000, endAtMs: (startAtS + request.spec.durationS) * 1000, hosts: own.hosts },
    others,
    needs: {
      hosts: own.hosts,
      each: request.each,
      fromMs: vmStartAt(state, record) * 1000,
      untilMs: record.promise!.endAt * 1000,
    },
    groups,
    facts: plannedFacts(site, groups),
  };
}
