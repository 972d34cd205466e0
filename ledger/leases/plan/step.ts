import { type ActGroups, groupDecision, type PlanFacts } from '../../../scheduler/leases/site/plan-acts.ts';
import { decideSite, type SiteDecision } from '../../../scheduler/leases/site/site-plan.ts';
import type { LedgerLease, LedgerSite } from './ledger-site.ts';
import { plannedFacts } from './plan-facts.ts';

/** A decision of the planner, with what it relies on. */
export interface StepPlan {
  decision: SiteDecision;
  /** The leases that the plan has as such. */
  leases: LedgerLease[];
  /** How many other VMs it counts, and how many hosts. */
  running: number;
  hosts: number;
  groups: ActGroups;
  facts: PlanFacts;
}

/** Plans what is due at a moment, in seconds since 1970. */
export function planStep(site: LedgerSite, now: number): StepPlan {
  const decision = decideSite(site, site.figures, now);
  const groups = groupDecision(decision, site.leases);
  return {
    decision,
    leases: site.leases,
    running: site.running.length,
    hosts: site.hosts.length,
    groups,
    facts: plannedFacts(site, groups),
  };
}
