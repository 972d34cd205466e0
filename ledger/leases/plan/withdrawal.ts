import type { PlannedMove } from '../../../scheduler/drains/drain-input.ts';
import { changedPromises, planSite, type SiteDecision } from '../../../scheduler/leases/site/site-plan.ts';
import type { LedgerLease, LedgerSite } from './ledger-site.ts';

export interface HostWithdrawal {
  hosts: readonly string[];
  /** The planned moves of the VMs that are on the hosts now. */
  moves: readonly PlannedMove[];
  /** null: from now on, without a known end. */
  during: { fromMs: number; untilMs: number } | null;
  nowMs: number;
}

/** The promises that get other hosts, or those that would be broken. */
export type WithdrawalPlan =
  | { promises: SiteDecision['promises'] }
  | { broken: Pick<LedgerLease, 'id' | 'startAtS' | 'durationS' | 'nodes'>[] };

/** Plans the site without the hosts. */
export function planWithdrawal(site: LedgerSite, withdrawal: HostWithdrawal): WithdrawalPlan {
  const now = withdrawal.nowMs / 1000;
  const unplaceableBefore = new Set(planSite(site, site.figures, now).unassigned);
  const { planner, unassigned } = planSite(withoutHosts(site, withdrawal), site.figures, now);
  const broken = unassigned.filter((lease) => !unplaceableBefore.has(lease));
  if (broken.length > 0) return { broken: site.leases.filter(({ id }) => broken.includes(id)) };
  return { promises: changedPromises(site, planner.state) };
}

/** The site after the withdrawal: its hosts are closed now, or vacant for that time, and VMs that move count on their targets. */
function withoutHosts(site: LedgerSite, { hosts, moves, during }: HostWithdrawal): LedgerSite {
  const targets = new Map(moves.map(({ vm, to }) => [vm, to]));
  const vacant = during === null ? null : { fromS: during.fromMs / 1000, untilS: during.untilMs / 1000 };
  return {
    ...site,
    hosts: site.hosts.map((host) =>
      !hosts.includes(host.id) ? host : vacant === null ? { ...host, up: false } : { ...host, vacant },
    ),
    leases: site.leases.map((lease) => leaseAfterMoves(lease, targets)),
  };
}

function leaseAfterMoves(lease: LedgerLease, targets: ReadonlyMap<string, string>): LedgerLease {
  const isPlaced = lease.phase !== 'waiting' && lease.hosts.length === lease.vms.length;
  return isPlaced ? { ...lease, hosts: lease.hosts.map((host, i) => targets.get(lease.vms[i]!.id) ?? host) } : lease;
}
