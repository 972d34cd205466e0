import type { ActGroups, PlanFacts } from '../../../scheduler/leases/site/plan-acts.ts';
import type { SiteHost } from '../../../scheduler/leases/site/site-state.ts';
import type { LedgerSite } from './ledger-site.ts';
import type { LeaseRow } from './site-row.ts';

/**
 * What a plan relies on, as it was read and as it is now: of hosts what they take, what they are withdrawn for, whether anything
 * has begun to take capacity there, and which promises they have; of leases their rows.
 */

/** Observations that change nothing of what was planned, as the load, the slowness or the ends of other work, are not in it. */
export function hostVersion(
  { capacity, up, answers, vacant }: Omit<SiteHost, 'id' | 'slowness'>,
  allocations: number,
  arriving: readonly string[],
): string {
  return JSON.stringify([capacity, up, answers, vacant && [vacant.fromS, vacant.untilS], allocations, arriving.toSorted()]);
}

const isUnbegunPromise = ({ startAtS, startedAtS }: LeaseRow): boolean => startAtS !== null && startedAtS === null;

export function leaseFact(row: LeaseRow): { version: string; promisedHosts: string[] } {
  const { taskState: _, refusal: __, ...rest } = row;
  return { version: JSON.stringify(rest), promisedHosts: isUnbegunPromise(row) ? row.plannedHosts : [] };
}

/** What acts rely on, as it was read for the plan. */
export function plannedFacts(site: LedgerSite, { hosts, leases }: ActGroups): PlanFacts {
  const arriving = Map.groupBy(site.arriving, ({ host }) => host);
  const arrivingAt = (host: string): string[] => (arriving.get(host) ?? []).map(({ vm }) => vm);
  const reliedOn = [...site.rows.values()].filter(
    (row) => leases.has(row.id) || (isUnbegunPromise(row) && row.plannedHosts.some((host) => hosts.has(host))),
  );
  return {
    hosts: new Map(
      site.hosts
        .filter(({ id }) => hosts.has(id))
        .map((host) => [host.id, hostVersion(host, site.allocations.get(host.id)!, arrivingAt(host.id))]),
    ),
    leases: new Map(reliedOn.map((row) => [row.id, leaseFact(row)])),
  };
}
