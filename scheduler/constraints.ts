import { groupKey, type LabelRule, type PlacementRules } from '../model/placement/rules.ts';

/**
 * Where a VM may run by labels of hosts and by its relation to other VMs. Placement, the planner, migrations, drains and the
 * balancer ask this one function.
 */

/** A `preferred` rule costs, a `strict` one refuses. */
export type Strength = LabelRule['strength'];

/** The VM is a member of the group: its members run on one host (`together`), or each on another (`apart`). */
export interface GroupRule {
  group: string;
  relation: 'together' | 'apart';
  strength: Strength;
}

/** What a VM's owner says of its hosts. */
export interface VmRules {
  labelRules: readonly LabelRule[];
  groupRules: readonly GroupRule[];
}

export interface ConstrainedVm extends VmRules {
  /** Where it runs now; null: nowhere yet. */
  host: string | null;
}

/** The labels of a host. Absent: it has none. */
export interface LabelledHost {
  id: string;
  labels?: ReadonlyMap<string, string>;
}

/** Of each group, how many members each host runs or is about to run. */
export type GroupMembers = ReadonlyMap<string, ReadonlyMap<string, number>>;

export const noMembers: GroupMembers = new Map();

export type ConstraintFilter = 'label' | 'apart' | 'together';

export type ConstraintAnswer =
  | { kind: 'refused'; filter: ConstraintFilter }
  /** How many preferred rules the host does not meet. */
  | { kind: 'allowed'; unmet: number };

/** The rules as they are asked about; null: there are none. @param owner whose groups they name */
export function vmRulesOf(owner: string, rules: PlacementRules | null): VmRules | null {
  if (rules === null) return null;
  const relate =
    (relation: GroupRule['relation']) =>
    ({ group, strength }: { group: string; strength: Strength }): GroupRule => ({
      group: groupKey(owner, group),
      relation,
      strength,
    });
  return {
    labelRules: rules.hostLabels,
    groupRules: [...rules.affinity.map(relate('together')), ...rules.antiAffinity.map(relate('apart'))],
  };
}

export function checkConstraints(vm: ConstrainedVm, { id, labels }: LabelledHost, members: GroupMembers): ConstraintAnswer {
  let unmet = 0;
  for (const { label, operator, values, strength } of vm.labelRules) {
    const value = labels?.get(label);
    const isOne = value !== undefined && values.includes(value);
    if (isOne === (operator === 'in')) continue;
    if (strength === 'strict') return { kind: 'refused', filter: 'label' };
    unmet += 1;
  }
  for (const rule of vm.groupRules) {
    if (meetsGroup(vm, rule, id, members)) continue;
    if (rule.strength === 'strict') return { kind: 'refused', filter: rule.relation };
    unmet += 1;
  }
  return { kind: 'allowed', unmet };
}

/** Whether the host meets the rule. The first member of a group that stays together may run anywhere. */
function meetsGroup({ host: own }: ConstrainedVm, { group, relation }: GroupRule, host: string, members: GroupMembers): boolean {
  const counts = members.get(group) ?? new Map<string, number>();
  const others = (id: string): number => (counts.get(id) ?? 0) - (id === own ? 1 : 0);
  if (relation === 'apart') return others(host) <= 0;
  return others(host) > 0 || [...counts.keys()].every((id) => others(id) <= 0);
}

/** Whether VMs with these rules, which begin at once, have to run on one host, or each on another. */
export function strictRelation({ groupRules }: VmRules): GroupRule['relation'] | null {
  const strict = groupRules.filter(({ strength }) => strength === 'strict').map(({ relation }) => relation);
  return strict.includes('apart') ? 'apart' : (strict[0] ?? null);
}

/** Members of groups as a plan places them, one after the other. */
export class PlannedMembers {
  readonly #counts: Map<string, Map<string, number>>;

  constructor(members: GroupMembers) {
    this.#counts = new Map([...members].map(([group, counts]) => [group, new Map(counts)]));
  }

  get members(): GroupMembers {
    return this.#counts;
  }

  add({ groupRules }: Pick<VmRules, 'groupRules'>, host: string, vms = 1): void {
    for (const group of new Set(groupRules.map((rule) => rule.group))) {
      const counts = this.#counts.get(group) ?? new Map<string, number>();
      counts.set(host, (counts.get(host) ?? 0) + vms);
      this.#counts.set(group, counts);
    }
  }
}
