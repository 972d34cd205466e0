import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { PlannedMove } from '../../scheduler/drains/drain-input.ts';
import { changedPromises, planSite } from '../../scheduler/leases/site/site-plan.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { writePromises } from './admission.ts';
import { type LedgerLease, type LedgerSite, readSite } from './read-site.ts';

/**
 * Hosts that are to be empty, against what was promised to leases. A promise that has not begun goes to other hosts; one
 * for which there are none is in the way, and that is said before anything is closed. Work that runs moves as the plan of
 * the drain has it, so its promise is kept by that.
 */

export interface HostWithdrawal {
  hosts: readonly string[];
  /** Of the VMs that are there now. */
  moves: readonly PlannedMove[];
  /** null: from now on, and for good as far as anybody knows. */
  during: { fromMs: number; untilMs: number } | null;
  nowMs: number;
}

/**
 * Moves promises away from hosts that are to be vacant, within the caller's transaction and under the placement lock.
 * Throws drain-impossible, with nothing changed, for promises that would be broken.
 */
export async function replanPromises(tx: Prisma.TransactionClient, vacancy: HostWithdrawal): Promise<void> {
  await lockPlacement(tx);
  const site = await readSite(tx);
  const now = vacancy.nowMs / 1000;
  const unplaceableBefore = new Set(planSite(site, site.figures, now).unassigned);
  const after = withoutHosts(site, vacancy);
  const { planner, unassigned: homeless } = planSite(after, site.figures, now);
  const broken = homeless.filter((lease) => !unplaceableBefore.has(lease));
  if (broken.length > 0) throw new BerthError('drain-impossible', brokenPromisesText(site, vacancy, broken));
  await writePromises(tx, changedPromises(site, planner.state));
}

/** The site as it is going to be: closed now, or vacant for that time; with those that move where they will be. */
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

function leaseAfterMoves(lease: LedgerLease, goes: ReadonlyMap<string, string>): LedgerLease {
  const isPlaced = lease.phase !== 'waiting' && lease.hosts.length === lease.vms.length;
  return isPlaced ? { ...lease, hosts: lease.hosts.map((host, i) => goes.get(lease.vms[i]!.id) ?? host) } : lease;
}

function brokenPromisesText({ leases }: LedgerSite, { hosts }: HostWithdrawal, broken: readonly string[]): string {
  const promised = leases.filter(({ id }) => broken.includes(id));
  const each = promised.map(({ id, startAtS, durationS, nodes }) => {
    const from = startAtS ?? 0;
    const [startAt, endAt] = [from, from + durationS].map((seconds) => new Date(seconds * 1000).toISOString());
    return `${id} has ${nodes} hosts from ${startAt} to ${endAt}`;
  });
  return `Without ${hosts.join(', ')} what was promised could not be kept: ${each.join('; ')}. End these leases, or choose another time`;
}
