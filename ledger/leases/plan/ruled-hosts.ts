import { checkConstraints, type GroupMembers, strictRelation, vmRulesOf } from '../../../scheduler/constraints.ts';
import type { SiteLease } from '../../../scheduler/leases/site/site-state.ts';
import { labelsOf, membersOf } from '../../placement/read-rules.ts';
import type { LeaseRow, SiteRow } from './site-row.ts';

/** What the rules of leases are asked about. */
export interface RuledSite {
  hosts: readonly { id: string; labels: ReadonlyMap<string, string> }[];
  members: GroupMembers;
}

export function ruledSite({ labels, members }: Pick<SiteRow, 'labels' | 'members'>, hosts: readonly { id: string }[]): RuledSite {
  return { hosts: hosts.map(({ id }) => ({ id, labels: labelsOf(labels?.[id] ?? {}) })), members: membersOf(members) };
}

/**
 * The hosts that a lease may use at this moment, with what it costs on each: its offers' costs, else how many preferred rules the
 * host does not meet. What else starts in the same step counts when the step is applied.
 */
export function ruledCosts(row: LeaseRow, own: string | null, site: RuledSite): Pick<SiteLease, 'hostCosts' | 'relation'> {
  const rules = vmRulesOf(row.owner, row.rules);
  if (rules === null) return { hostCosts: row.hostCosts };
  const costs: Record<string, number> = {};
  for (const host of site.hosts) {
    if (row.hostCosts !== null && row.hostCosts[host.id] === undefined) continue;
    const answer = checkConstraints({ host: own, ...rules }, host, site.members);
    if (answer.kind === 'allowed') costs[host.id] = row.hostCosts?.[host.id] ?? answer.unmet;
  }
  return { hostCosts: costs, relation: strictRelation(rules) };
}
