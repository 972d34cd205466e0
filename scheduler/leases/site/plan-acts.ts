import type { SiteDecision } from './site-plan.ts';
import type { SiteLease } from './site-state.ts';

/**
 * A decision is made from what was read a moment ago, and applied to what is true now. Its acts rely on their leases, on the
 * hosts that they name, and on hosts that share a gang with these, because a gang is suspended on all of its hosts at once.
 * What happens elsewhere meanwhile could as well have happened after the decision. Pure.
 */

/** Changes that are made together or not at all, because they rely on the same hosts. */
export interface ActGroups {
  /** By lease. */
  leases: Map<string, number>;
  /** By host; of other hosts nothing is relied on. */
  hosts: Map<string, number>;
}

/** What acts rely on, as texts that are equal as long as nothing has changed. */
export interface PlanFacts {
  hosts: Map<string, string>;
  /** The leases of the acts, and the promises that have not begun on the hosts, with the hosts of these. */
  leases: Map<string, { version: string; promisedHosts: string[] }>;
}

interface ChangedFacts {
  hosts: ReadonlySet<string>;
  leases: ReadonlySet<string>;
}

type Leases = readonly Pick<SiteLease, 'id' | 'hosts' | 'phase' | 'startAtS'>[];

/** The acts of a decision: where each lease is or was planned, and where it goes. */
export function groupDecision(decision: SiteDecision, leases: Leases): ActGroups {
  const { promises, suspends, starts, resumes, moves } = decision;
  const to = moves.map(({ lease, to }) => ({ lease, hosts: [to] }));
  return groupActs([...promises, ...suspends, ...starts, ...resumes, ...to], leases);
}

/** Work that starts where a promise has made way relies on the promise's new hosts too: they are one group. */
export function groupActs(acts: readonly { lease: string; hosts?: readonly string[] }[], leases: Leases): ActGroups {
  const joined = new Joined();
  const before = new Map(leases.map(({ id, hosts }) => [id, hosts]));
  for (const { lease, hosts = [] } of acts)
    for (const host of [...hosts, ...(before.get(lease) ?? [])]) joined.join(`lease ${lease}`, `host ${host}`);
  for (const { hosts, phase, startAtS } of leases) {
    if (hosts.length < 2 || phase === 'waiting' || startAtS !== null) continue;
    for (const host of hosts) joined.join(`host ${hosts[0]}`, `host ${host}`);
  }
  const numbers = new Map<string, number>();
  const groupsOfLeases = new Map<string, number>();
  for (const { lease } of acts) {
    const first = joined.find(`lease ${lease}`);
    const number = numbers.get(first) ?? numbers.size;
    numbers.set(first, number);
    groupsOfLeases.set(lease, number);
  }
  const hosts = new Map<string, number>();
  for (const member of joined.members()) {
    const number = numbers.get(joined.find(member));
    if (number !== undefined && member.startsWith('host ')) hosts.set(member.slice('host '.length), number);
  }
  return { leases: groupsOfLeases, hosts };
}

/** What is not as it was when it was planned. A promise that has come, gone or moved changes its hosts. */
export function changedFacts(planned: PlanFacts, now: PlanFacts): ChangedFacts {
  const hosts = new Set<string>();
  const leases = new Set<string>();
  for (const id of new Set([...planned.hosts.keys(), ...now.hosts.keys()]))
    if (planned.hosts.get(id) !== now.hosts.get(id)) hosts.add(id);
  for (const id of new Set([...planned.leases.keys(), ...now.leases.keys()])) {
    const [before, after] = [planned.leases.get(id), now.leases.get(id)];
    if (before?.version === after?.version) continue;
    leases.add(id);
    for (const host of [...(before?.promisedHosts ?? []), ...(after?.promisedHosts ?? [])]) hosts.add(host);
  }
  return { hosts, leases };
}

/** The groups that rely on something that has changed. */
export function staleGroups(groups: ActGroups, changed: ChangedFacts): Set<number> {
  const of = [...changed.hosts].map((host) => groups.hosts.get(host));
  return new Set([...of, ...[...changed.leases].map((lease) => groups.leases.get(lease))].filter((group) => group !== undefined));
}

/**
 * The part of a decision that still holds.
 * @returns the part, and the leases whose acts are left out of it
 */
export function withoutStale(
  decision: SiteDecision,
  groups: ActGroups,
  changed: ChangedFacts,
): { decision: SiteDecision; refused: string[] } {
  const stale = staleGroups(groups, changed);
  const holds = ({ lease }: { lease: string }): boolean => !stale.has(groups.leases.get(lease)!);
  const { starts, suspends, resumes, moves, promises } = decision;
  return {
    decision: {
      ...decision,
      starts: starts.filter(holds),
      suspends: suspends.filter(holds),
      resumes: resumes.filter(holds),
      moves: moves.filter(holds),
      promises: promises.filter(holds),
    },
    refused: [...groups.leases.keys()].filter((lease) => !holds({ lease })),
  };
}

/** Sets that are joined: each member leads to the first of its set. */
class Joined {
  readonly #next = new Map<string, string>();

  members(): Iterable<string> {
    return this.#next.keys();
  }

  find(member: string): string {
    let first = member;
    for (let next = this.#next.get(first); next !== undefined && next !== first; next = this.#next.get(first)) first = next;
    this.#next.set(member, first);
    return first;
  }

  join(one: string, other: string): void {
    const [a, b] = [this.find(one), this.find(other)];
    if (a !== b) this.#next.set(b, a);
  }
}
