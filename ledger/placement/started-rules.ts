import type { PlacementRules } from '../../model/placement/rules.ts';
import { checkConstraints, type GroupMembers, PlannedMembers, vmRulesOf } from '../../scheduler/constraints.ts';
import type { Transaction } from '../transaction.ts';
import { groupsIn, readHostLabels, readMembers } from './read-rules.ts';

interface Ruled {
  owner: string;
  rules: PlacementRules | null;
}

/** The rules of what a plan starts, asked about what is true under the placement lock, and about what the same step has started. */
class StartedRules {
  readonly #labels: ReadonlyMap<string, ReadonlyMap<string, string>>;
  readonly #planned: PlannedMembers;

  constructor(labels: ReadonlyMap<string, ReadonlyMap<string, string>>, members: GroupMembers) {
    this.#labels = labels;
    this.#planned = new PlannedMembers(members);
  }

  /** Whether VMs may start on these hosts, one on each. */
  allow({ owner, rules: stored }: Ruled, hosts: readonly string[]): boolean {
    const rules = vmRulesOf(owner, stored);
    if (rules === null) return true;
    const planned = new PlannedMembers(this.#planned.members);
    return hosts.every((id) => {
      const host = { id, labels: this.#labels.get(id) ?? new Map<string, string>() };
      const answer = checkConstraints({ host: null, ...rules }, host, planned.members);
      planned.add(rules, id);
      return answer.kind === 'allowed';
    });
  }

  take({ owner, rules: stored }: Ruled, hosts: readonly string[]): void {
    const rules = vmRulesOf(owner, stored);
    if (rules !== null) for (const id of hosts) this.#planned.add(rules, id);
  }
}

/** The caller holds the placement lock. Reads nothing where there are no rules. */
export async function openRules(tx: Transaction, starting: readonly Ruled[]): Promise<StartedRules> {
  const rules = starting.map(({ owner, rules }) => vmRulesOf(owner, rules)).filter((one) => one !== null);
  if (rules.length === 0) return new StartedRules(new Map(), new Map());
  return new StartedRules(await readHostLabels(tx), await readMembers(tx, groupsIn(rules)));
}
