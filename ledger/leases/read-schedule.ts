import type { Prisma } from '../../generated/prisma/client.ts';
import { planSite } from '../../scheduler/leases/site/site-plan.ts';
import { type LedgerLease, readSite } from './read-site.ts';

export interface ScheduledLease {
  lease: LedgerLease;
  hosts: string[];
  startAtS: number;
  endAtS: number;
  firm: boolean;
}

export interface SiteSchedule {
  leases: ScheduledLease[];
  suspensions: { lease: LedgerLease; atS: number }[];
  /** Leases that wait and for which no place is in sight. */
  unplanned: LedgerLease[];
}

/** The plan as it stands now: when every lease is expected to start, or go on, and to end. Nothing is booked by asking. */
export async function readSchedule(tx: Prisma.TransactionClient, nowMs: number): Promise<SiteSchedule> {
  const site = await readSite(tx);
  const plan = planSite(site, site.figures, nowMs / 1000).planner.plan(nowMs / 1000);
  const byId = new Map(site.leases.map((lease) => [lease.id, lease]));
  const leases = plan.quotes.map(({ lease: id, hosts, startAtS, endAtS, firm }) => {
    const lease = byId.get(id)!;
    // The plan keeps the time in which the hosts are freed behind the work; it is none of the lease's own.
    return { lease, hosts, startAtS, endAtS: endAtS - site.figures.teardownS, firm };
  });
  const planned = new Set(leases.map(({ lease }) => lease.id));
  return {
    leases,
    suspensions: plan.suspensions.map(({ lease, atS }) => ({ lease: byId.get(lease)!, atS })),
    unplanned: site.leases.filter(({ id }) => !planned.has(id)),
  };
}
