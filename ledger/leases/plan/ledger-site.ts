import type { Resources } from '../../../model/host.ts';
import type { TaskId, VmId } from '../../../model/ids.ts';
import type { PlacementRules } from '../../../model/placement/rules.ts';
import type { TaskState, VmState } from '../../../model/states.ts';
import type { Refusal } from '../../../model/task.ts';
import type { LeasePhase, RunningVm, SiteFigures, SiteLease, SiteState } from '../../../scheduler/leases/site/site-state.ts';
import { type LeadOf, leadEstimator, tailEstimateS } from './lead-times.ts';
import { type RuledSite, ruledCosts, ruledSite } from './ruled-hosts.ts';
import { hostsOf, runningVms, takenForEver } from './site-columns.ts';
import { type LeaseRow, SiteRow } from './site-row.ts';

/** The site as a plan has it, made from what was read of the ledger. Pure, so that it runs in another thread too. */

/** Of a slow disk; the plan of a slower host adapts from its first suspension on. */
export const suspendMiBPerS = 64;

export interface LedgerLease extends SiteLease {
  owner: string;
  task: { id: TaskId; state: TaskState } | null;
  imageId: string | null;
  /** Why it still waits, as its row has it. */
  refusal: Refusal | null;
  rules: PlacementRules | null;
  vms: { id: VmId; generation: number; state: VmState }[];
}

export interface LedgerSite extends SiteState {
  leases: LedgerLease[];
  running: RunningVm[];
  figures: SiteFigures;
  /** What VMs use of each host, by the ledger's own sums. */
  used: Map<string, Resources>;
  /** How often something has begun to take capacity of each host. */
  allocations: Map<string, number>;
  /** VMs that drains will bring to hosts. */
  arriving: SiteRow['arriving'];
  /** The leases as they were read. */
  rows: Map<string, LeaseRow>;
  leadOf: LeadOf;
}

/**
 * What a plan is made from besides promises, what waits, and what is on the hosts of either, which are leases always; so is
 * what is on `hosts`, and can be made to make way. `others`: what is on other hosts is taken without an end (`forever`), is
 * VMs with their ends, or leases.
 */
export interface SiteScope {
  hosts: readonly string[];
  others: 'forever' | 'ending' | 'leases';
}

/** The answer of readSite, not parsed yet. */
export interface SiteRead {
  row: unknown;
  scope: SiteScope;
}

export function siteOf(read: SiteRead): LedgerSite {
  const row = SiteRow.parse(read.row);
  const siteHosts = hostsOf(row);
  const leadOf = leadEstimator({ ...row, hosts: siteHosts.hosts });
  const ruled = ruledSite(row, siteHosts.hosts);
  return {
    ...siteHosts,
    rows: new Map(row.leases.map((lease) => [lease.id, lease])),
    arriving: row.arriving,
    leases: row.leases.map((lease) => toLease(lease, { leadOf, hosts: siteHosts.used, ruled })),
    running: runningVms(row.running),
    leadOf,
    taken: read.scope.others === 'forever' ? takenForEver(siteHosts.used, row.listedUse) : row.taken,
    figures: { teardownS: tailEstimateS(row), suspendMiBPerS },
  };
}

const hasPlacedVm = ({ vms }: LeaseRow): boolean => vms.some((vm) => vm.state !== 'pending');

function leasePhase(row: LeaseRow): LeasePhase {
  if (!hasPlacedVm(row)) return 'waiting';
  if (row.vms.every((vm) => vm.state === 'removing' || vm.state === 'stuck')) return 'leaving';
  if (row.suspension === 'suspended' && row.vms.some(({ migration }) => migration !== null)) return 'migrating';
  return row.suspension ?? 'running';
}

/** By VM. Suspended work that migrates counts on its target, because it does not resume before it arrives there. */
function hostsByVm({ suspension, vms }: LeaseRow): string[] {
  return vms.flatMap(({ host, migration }) => (suspension === 'suspended' ? migration?.to : null) ?? host ?? []);
}

interface LeaseSite {
  leadOf: LeadOf;
  /** By id. */
  hosts: ReadonlyMap<string, unknown>;
  ruled: RuledSite;
}

function toLease(row: LeaseRow, { leadOf, hosts, ruled }: LeaseSite): LedgerLease {
  const { plannedHosts, startedAtS, suspension: _, taskId, taskState, vms, ...rest } = row;
  const { vcpus, memoryMiB, diskMiB, image: imageId, imageMiB } = vms[0]!;
  const each = { vcpus, memoryMiB, diskMiB };
  const isPlaced = hasPlacedVm(row);
  const lead = leadOf({ imageId, imageMiB, each });
  return {
    ...rest,
    ...ruledCosts(row, isPlaced ? vms[0]!.host : null, ruled),
    // Only the workflow of a task suspends for the plan.
    preemptible: row.preemptible && taskId !== null,
    // A lease that is placed, and not reported to run yet, is expected to run after the usual lead.
    runFromS: row.runFromS ?? (startedAtS === null ? null : startedAtS + lead),
    nodes: vms.length,
    perVm: each,
    leadS: lead,
    phase: leasePhase(row),
    // One that was planned on a host which was removed since gets others.
    hosts: isPlaced ? hostsByVm(row) : plannedHosts.filter((host) => hosts.has(host)),
    imageId,
    task: taskId === null ? null : { id: taskId, state: taskState! },
    vms: vms.map(({ id, generation, state }) => ({ id, generation, state })),
  };
}
