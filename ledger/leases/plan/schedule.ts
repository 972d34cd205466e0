import { planSite } from '../../../scheduler/leases/site/site-plan.ts';
import type { LedgerLease, LedgerSite } from './ledger-site.ts';

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
  /** Waiting leases for which the plan has no time. */
  unplanned: LedgerLease[];
}

/** When every lease is expected to start or resume, and to end. */
export function planSchedule(site: LedgerSite, nowMs: number): SiteSchedule {
  const plan = planSite(site, site.figures, nowMs / 1000).planner.plan(nowMs / 1000);
  const byId = new Map(site.leases.map((lease) => [lease.id, lease]));
  const leases = plan.quotes.map(({ lease: id, hosts, startAtS, endAtS, firm }) => {
    const lease = byId.get(id)!;
    // The plan appends the time in which the hosts are freed, which is not the lease's own.
    return { lease, hosts, startAtS, endAtS: endAtS - site.figures.teardownS, firm };
  });
  const planned = new Set(leases.map(({ lease }) => lease.id));
  return {
    leases,
    suspensions: plan.suspensions.map(({ lease, atS }) => ({ lease: byId.get(lease)!, atS })),
    unplanned: site.leases.filter(({ id }) => !planned.has(id)),
  };
}
