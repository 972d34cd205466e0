import { BerthError } from '../../model/errors.ts';
import type { PlannedMove } from '../../scheduler/drains/drain-input.ts';
import { changedPromises, planSite } from '../../scheduler/leases/site/site-plan.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { writePromises } from './admission.ts';
import { type LedgerLease, type LedgerSite, readSite } from './read-site.ts';

/**
 * Hosts are withdrawn while leases have promises. A promise that has not begun is assigned other hosts; one for which there
 * are none refuses the withdrawal, before any host is closed. Work that runs migrates by the plan of the drain, which keeps
 * its promise.
 */

interface HostWithdrawal {
  hosts: readonly string[];
  /** The planned moves of the VMs that are on the hosts now. */
  moves: readonly PlannedMove[];
  /** null: from now on, without a known end. */
  during: { fromMs: number; untilMs: number } | null;
  nowMs: number;
}

/**
 * Reassigns promises from hosts that are withdrawn, within the caller's transaction and under the placement lock. Throws
 * drain-impossible, with nothing changed, for promises that would be broken.
 */
export async function replanPromises(tx: Transaction, withdrawal: HostWithdrawal): Promise<void> {
  await lockPlacement(tx);
  const site = await readSite(tx, withdrawal.hosts);
  const now = withdrawal.nowMs / 1000;
  const unplaceableBefore = new Set(planSite(site, site.figures, now).unassigned);
  const after = withoutHosts(site, withdrawal);
  const { planner, unassigned } = planSite(after, site.figures, now);
  const broken = unassigned.filter((lease) => !unplaceableBefore.has(lease));
  if (broken.length > 0) throw new BerthError('drain-impossible', brokenPromisesText(site, withdrawal, broken));
  await writePromises(tx, changedPromises(site, planner.state));
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

function brokenPromisesText({ leases }: LedgerSite, { hosts }: HostWithdrawal, broken: readonly string[]): string {
  const promised = leases.filter(({ id }) => broken.includes(id));
  const each = promised.map(({ id, startAtS, durationS, nodes }) => {
    const from = startAtS ?? 0;
    const [startAt, endAt] = [from, from + durationS].map((seconds) => isoOf(seconds * 1000));
    return `${id} has ${nodes} hosts from ${startAt} to ${endAt}`;
  });
  return `Without ${hosts.join(', ')} what was promised could not be kept: ${each.join('; ')}. End these leases, or choose another time`;
}
