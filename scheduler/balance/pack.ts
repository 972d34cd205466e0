import type { BalanceInput } from './decision.ts';
import {
  compareOffers,
  type MoveOffer,
  type OfferFilter,
  offerFilterOf,
  offerMove,
  type StayFilter,
  stayFilterOf,
} from './offers.ts';
import { PlannedSite } from './planned-site.ts';
import type { BalanceHost, BalanceVm } from './site.ts';

/** For how long a host that is emptied is expected to stay off: what it is worth is counted over this time. */
const offS = 4 * 3600;

/** Why a host is not emptied. */
export type PackReason =
  /** It is unknown, left out or drained, or promised to leases that have not begun. */
  | 'leftOut'
  /** It takes VMs of a host that is emptied. */
  | 'receives'
  /** One of its VMs stays where it is, whatever the target. */
  | 'vmStays'
  /** No other host that has VMs takes one of its VMs. */
  | 'noTarget'
  /** The moves cost more than the host is worth. */
  | 'notWorthwhile';

/** Whether a host can be emptied, with all that it was made of. */
export interface PackDecision {
  host: string;
  atMs: number;
  vms: number;
  /** Processor-seconds: what the host is worth while it is off, and what all moves cost. */
  gainCpuS: number;
  costCpuS: number;
  /** In the order in which they were planned, the chosen one of each VM. */
  moves: readonly MoveOffer[];
  /** null: it can be emptied. */
  why: PackReason | null;
  /** The VM that keeps it, and why. */
  keptBy: { vm: string; why: StayFilter | null; refused: Readonly<Partial<Record<OfferFilter, number>>> } | null;
}

/**
 * The decision for the aim `pack`, of sites that switch hosts off: which hosts can be emptied, those with the least to move first.
 * Their VMs go to hosts that have VMs already, the fullest that may take them. Pure: the same input gives the same answer.
 * @param input `vms` has those of the hosts that are asked about
 * @param hosts the hosts that are asked about
 */
export function decidePack(input: BalanceInput, hosts: readonly string[]): PackDecision[] {
  // The moves of a plan are made one after the other.
  let site = new PlannedSite({ ...input, hosts: input.hosts.map((host) => ({ ...host, arriving: 0, leaving: 0 })) });
  const memory = (id: string): number => site.vmsOf(id).reduce((sum, vm) => sum + vm.memoryMiB, 0);
  const order = hosts
    .filter((id) => site.find(id) !== undefined && site.vmsOf(id).length > 0)
    .toSorted((a, b) => memory(a) - memory(b) || (a < b ? -1 : 1));
  const receiving = new Set<string>();
  return order.map((id) => {
    const trial = site.copy();
    const decision = emptyHost(trial, site.host(id), receiving.has(id));
    if (decision.why !== null) return decision;
    site = trial;
    for (const { to } of decision.moves) receiving.add(to);
    return decision;
  });
}

function emptyHost(site: PlannedSite, host: BalanceHost, receives: boolean): PackDecision {
  const { policy, nowMs } = site.context;
  const vms = site.vmsOf(host.id);
  const moves: MoveOffer[] = [];
  const answer = (why: PackReason | null, keptBy: PackDecision['keptBy'] = null): PackDecision => ({
    host: host.id,
    atMs: nowMs,
    vms: vms.length,
    gainCpuS: policy.emptyHostCpus * offS,
    costCpuS: moves.reduce((sum, { cost }) => sum + cost.cpuS, 0),
    moves: why === null || why === 'notWorthwhile' ? moves : [],
    why,
    keptBy,
  });
  if (host.state !== 'up' || !host.balance || host.draining || host.promises.length > 0) return answer('leftOut');
  if (receives) return answer('receives');
  // The largest first, while there is the most room.
  for (const vm of vms.toSorted((a, b) => b.memoryMiB - a.memoryMiB || (a.id < b.id ? -1 : 1))) {
    const why = stayFilterOf(vm, site.context);
    if (why !== null) return answer('vmStays', { vm: vm.id, why, refused: {} });
    const found = fullestTarget(vm, host.id, site);
    if ('refused' in found) return answer('noTarget', { vm: vm.id, why: null, refused: found.refused });
    moves.push(found.offer);
    site.applyEnded(vm, found.offer.to);
  }
  const costCpuS = moves.reduce((sum, { cost }) => sum + cost.cpuS, 0);
  return answer(policy.emptyHostCpus * offS >= policy.margin * costCpuS ? null : 'notWorthwhile');
}

/** Of the hosts that have VMs and may take this one: the fullest, so that others may be emptied as well. */
function fullestTarget(
  vm: BalanceVm,
  from: string,
  site: PlannedSite,
): { offer: MoveOffer } | { refused: Partial<Record<OfferFilter, number>> } {
  const refused: Partial<Record<OfferFilter, number>> = {};
  const offers: MoveOffer[] = [];
  for (const target of site.byFreeProcessors().toReversed()) {
    if (target.vms === 0 || target.id === from) continue;
    const filter = offerFilterOf(vm, site.host(from), target, site.context);
    if (filter !== null) {
      refused[filter] = (refused[filter] ?? 0) + 1;
      continue;
    }
    const offer = offerMove(vm, site.host(from), target, 0, site.context);
    if (offer.unmet <= 0 && offer.cost.converges) return { offer };
    if (offer.cost.converges) offers.push(offer);
  }
  const [best] = offers.toSorted((a, b) => a.unmet - b.unmet || compareOffers(a, b));
  return best === undefined ? { refused } : { offer: best };
}
