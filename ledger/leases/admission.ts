import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Resources } from '../../model/host.ts';
import type { LeaseSpec } from '../../model/task.ts';
import type { AdmissionDecision, Alternative, RefusalReason } from '../../scheduler/leases/admission.ts';
import { changedPromises, planSite } from '../../scheduler/leases/site/site-plan.ts';
import { plannedLease, type SiteLease } from '../../scheduler/leases/site/site-state.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { type LedgerSite, readSite } from './read-site.ts';

/** What is asked for: VMs that are alike, all or none, for a time. */
export interface LeaseRequest {
  id: string;
  spec: LeaseSpec;
  nodes: number;
  /** The image's own size included in the disk. */
  each: Resources;
  image: { id: string; sizeMiB: number };
  nowMs: number;
}

/** Kept in the lease's row; times in ms since 1970. */
export interface LeasePromise {
  startAtMs: number;
  endAtMs: number;
  hosts: string[];
}

/** An interval that could be had instead; each as it stands. */
export interface OfferedAlternative {
  change: Alternative['change'];
  startAt: string;
  nodes: number;
  durationS: number;
}

/** Never earlier than what could be had. */
const isoCeiling = (seconds: number): string => new Date(Math.ceil(seconds * 1000 - 1e-3)).toISOString();

/** Whether a lease has a fixed start, and so is promised or refused at once. */
export function isPromised(spec: LeaseSpec): boolean {
  return spec.kind !== 'bestEffort' || spec.deadline !== undefined;
}

function toSiteLease(order: LeaseRequest, site: LedgerSite): SiteLease {
  const { spec, image, nowMs } = order;
  return {
    id: order.id,
    kind: spec.kind,
    submittedAtS: nowMs / 1000,
    durationS: spec.durationS,
    nodes: order.nodes,
    perVm: order.each,
    priority: spec.priority ?? 0,
    preemptible: spec.preemptible ?? true,
    startAtS: spec.startAt === undefined ? null : Date.parse(spec.startAt) / 1000,
    phase: 'waiting',
    hosts: [],
    bound: false,
    runFromS: null,
    leftS: null,
    operation: null,
    leadS: site.leadOf({ imageId: image.id, imageMiB: image.sizeMiB, each: order.each }),
  };
}

/** Asks the plan of this very moment. What it would change stays in the planner that is returned. */
function planAdmission(site: LedgerSite, order: LeaseRequest): { answer: AdmissionDecision; plan: ReturnType<typeof planSite> } {
  const now = order.nowMs / 1000;
  const plan = planSite(site, site.figures, now);
  const lease = plannedLease(toSiteLease(order, site), site.figures);
  const { deadline } = order.spec;
  const deadlineAtS = deadline === undefined ? undefined : Date.parse(deadline) / 1000;
  return { answer: plan.planner.submit({ ...lease, deadlineAtS }, now), plan };
}

/** The user's own times: the tail that the plan keeps behind the work is none of it. */
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

function refusalOf(answer: Extract<AdmissionDecision, { accepted: false }>, site: LedgerSite): LeaseRefusal {
  const alternatives = offeredAlternatives(answer.alternatives, site.figures.teardownS);
  return { reason: answer.reason, detail: answer.detail, alternatives };
}

/**
 * Promises a lease within the caller's transaction, under the placement lock, or throws lease-refused with the reason
 * and up to three alternatives. What the others' promises change for it is written; the lease's own row is the caller's.
 */
export async function promiseLease(tx: Prisma.TransactionClient, order: LeaseRequest): Promise<LeasePromise> {
  await lockPlacement(tx);
  const site = await readSite(tx);
  const { answer, plan } = planAdmission(site, order);
  if (!answer.accepted) {
    const { reason, detail, alternatives } = refusalOf(answer, site);
    throw new BerthError('lease-refused', `This lease cannot be had: ${detail} (${reason})`, { extra: { reason, alternatives } });
  }
  if (answer.promise === null) throw new Error('BUG: a lease with a fixed start was accepted without a promise');
  const changed = changedPromises(site, plan.planner.state);
  const mine = changed.find(({ lease }) => lease === order.id);
  if (mine === undefined) throw new Error('BUG: a lease was promised without hosts');
  await writePromises(
    tx,
    changed.filter((one) => one !== mine),
  );
  const { startAtS } = answer.promise;
  return { startAtMs: startAtS * 1000, endAtMs: (startAtS + order.spec.durationS) * 1000, hosts: mine.hosts };
}

/** Which hosts promises that have not begun are planned on now. */
export async function writePromises(
  tx: Prisma.TransactionClient,
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
  /** Promised; else it may still change either way. */
  firm: boolean;
  refused: LeaseRefusal | null;
}

/** When a lease would start and end if it were asked for now. Nothing is booked. */
export async function quoteLease(tx: Prisma.TransactionClient, order: LeaseRequest): Promise<LeaseQuote> {
  const site = await readSite(tx);
  const { answer, plan } = planAdmission(site, order);
  if (!answer.accepted) return { accepted: false, startAt: null, endAt: null, firm: false, refused: refusalOf(answer, site) };
  const now = order.nowMs / 1000;
  const quote = plan.planner.plan(now).quotes.find((one) => one.lease === order.id);
  const startAtS = answer.promise?.startAtS ?? quote?.startAtS;
  const endAtS =
    answer.promise === null ? quote && quote.endAtS - site.figures.teardownS : answer.promise.startAtS + order.spec.durationS;
  return {
    accepted: true,
    startAt: startAtS === undefined ? null : isoCeiling(startAtS),
    endAt: endAtS === undefined ? null : isoCeiling(endAtS),
    firm: answer.promise !== null,
    refused: null,
  };
}
