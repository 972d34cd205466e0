import { migrationLimits } from '../migration-target.ts';
import { roughCostCpuS } from './cost.ts';
import type { BalanceDecision, BalanceInput, HelpRequest, StayReason } from './decision.ts';
import {
  compareOffers,
  freeProcessors,
  type MoveOffer,
  mayWant,
  type OfferFilter,
  offerFilterOf,
  offerMove,
  type StayFilter,
  stayFilterOf,
} from './offers.ts';
import { PlannedSite } from './planned-site.ts';
import { type BalanceHost, type BalanceVm, remainingS } from './site.ts';
import { expectedStarvedCpus, predictGain } from './starvation.ts';

/** How many offers are found for each VM, from the hosts with the most free processors on. */
const offersPerVm = 6;
/** Of these VMs of a host, those whose move would gain most, the cost is predicted. */
const vmsWithCost = 4;
/** How many offers a decision reports. */
const reportedOffers = 5;

/**
 * The balancer's decision for the aim `spread`: for each host that asks for help, which VM moves where, or why none. A site
 * decides for all hosts at once; a host alone decides with `offers` from the others. Pure: the same input gives the same answer.
 */
export function decideSpread(input: BalanceInput): BalanceDecision[] {
  const site = new PlannedSite(input);
  const urgency = ({ host }: HelpRequest): number => {
    const { load, processors } = site.host(host);
    return expectedStarvedCpus(load.cpus, 0, processors);
  };
  const order = input.requests
    .map((request) => ({ request, urgency: urgency(request) }))
    .sort((a, b) => b.urgency - a.urgency || (a.request.host < b.request.host ? -1 : 1));
  return order.map(({ request }) => answerRequest(request, site));
}

function answerRequest({ host, verdict }: HelpRequest, site: PlannedSite): BalanceDecision {
  const stayed: Partial<Record<StayFilter, number>> = {};
  const refused: Partial<Record<OfferFilter, number>> = {};
  const considered: MoveOffer[] = [];
  const moves: MoveOffer[] = [];
  const answer = (outcome: BalanceDecision['outcome']): BalanceDecision => ({
    host,
    atMs: site.context.nowMs,
    seen: verdict,
    considered: considered.sort(compareOffers).slice(0, reportedOffers),
    stayed,
    refused,
    outcome,
  });
  const stay = (why: StayReason): BalanceDecision => answer({ kind: 'stay', why });
  const first = site.host(host);
  if (first.state !== 'up' || !first.balance || first.draining) return stay('leftOut');
  if (verdict.kind !== 'processors') return stay('notProcessors');
  if (first.leaving >= migrationLimits.leaving) return stay('leaving');
  let movable = site.vmsOf(host).filter((vm) => {
    const filter = stayFilterOf(vm, site.context);
    if (filter !== null) stayed[filter] = (stayed[filter] ?? 0) + 1;
    return filter === null;
  });
  if (movable.length === 0) return stay('noMovableVm');
  while (site.host(host).leaving < migrationLimits.leaving) {
    const offers = offersFor(movable, site.host(host), verdict.expectedS, site, refused);
    considered.push(...offers);
    const best = offers.sort(compareOffers)[0];
    if (best === undefined || !best.worthwhile) break;
    moves.push(best);
    site.apply(movable.find((vm) => vm.id === best.vm)!, best.to);
    movable = movable.filter((vm) => vm.id !== best.vm);
  }
  if (moves.length > 0) return answer({ kind: 'move', moves });
  return stay(considered.length === 0 ? 'noTarget' : 'notWorthwhile');
}

/** Offers for the VMs whose move would gain most: of all of them the cost is estimated, and predicted of these. */
function offersFor(
  vms: readonly BalanceVm[],
  source: BalanceHost,
  stressS: number,
  site: PlannedSite,
  refused: Partial<Record<OfferFilter, number>>,
): MoveOffer[] {
  const { context } = site;
  const { policy, nowMs, model } = context;
  const ranked = vms.flatMap((vm) => {
    const targets = targetsFor(vm, source, site, refused);
    if (targets.length === 0) return [];
    const staysS = Math.min(policy.horizonS, remainingS(vm, nowMs));
    const gains = targets.map((target) => predictGain(vm, source, target, stressS, staysS));
    const gainCpuS = Math.max(...gains.map((gain) => gain.duringStressCpuS + gain.laterCpuS));
    const bandwidth = model.bandwidth('live', source.id, targets[0]!.id);
    return [{ vm, targets, netCpuS: gainCpuS - roughCostCpuS(vm, bandwidth, policy) }];
  });
  ranked.sort((a, b) => b.netCpuS - a.netCpuS || (a.vm.id < b.vm.id ? -1 : 1));
  return ranked
    .slice(0, vmsWithCost)
    .flatMap(({ vm, targets }) => targets.map((target) => offerMove(vm, source, target, stressS, context)));
}

/** The hosts that may take the VM: its home, where its disks are, and those with the most free processors. */
function targetsFor(
  vm: BalanceVm,
  source: BalanceHost,
  site: PlannedSite,
  refused: Partial<Record<OfferFilter, number>>,
): BalanceHost[] {
  const targets: BalanceHost[] = [];
  const home = vm.home === null ? undefined : site.find(vm.home);
  if (home !== undefined && offerFilterOf(vm, source, home, site.context) === null) targets.push(home);
  const order = site.byFreeProcessors();
  const wanted = mayWant(vm.load);
  for (const [index, target] of order.entries()) {
    if (targets.length >= offersPerVm) break;
    if (freeProcessors(target, site.context.policy.targetUse) < wanted) {
      // Nor do those after it have as many.
      refused.processors = (refused.processors ?? 0) + order.length - index;
      break;
    }
    if (target === targets[0]) continue;
    const filter = offerFilterOf(vm, source, target, site.context);
    if (filter === null) targets.push(target);
    else refused[filter] = (refused[filter] ?? 0) + 1;
  }
  return targets;
}
