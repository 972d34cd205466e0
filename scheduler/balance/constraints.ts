/**
 * Where a VM may run by labels of hosts and by its relation to other VMs. Placement, migration, drains and the balancer ask
 * this one function.
 */

/** A `preferred` rule costs, a `strict` one refuses. */
export type Strength = 'strict' | 'preferred';

/** `in`: the host's label has one of the values; `notIn`: it has none of them, or no such label. */
export interface LabelRule {
  label: string;
  operator: 'in' | 'notIn';
  values: readonly string[];
  strength: Strength;
}

/** The VM is a member of the group: its members run on one host (`together`), or each on another (`apart`). */
export interface GroupRule {
  group: string;
  relation: 'together' | 'apart';
  strength: Strength;
}

export interface ConstrainedVm {
  /** Where it runs now; null: nowhere yet. */
  host: string | null;
  labelRules: readonly LabelRule[];
  groupRules: readonly GroupRule[];
}

/** Of each group, how many members each host runs or is about to run. */
export type GroupMembers = ReadonlyMap<string, ReadonlyMap<string, number>>;

export type ConstraintFilter = 'label' | 'apart' | 'together';

export type ConstraintAnswer =
  | { kind: 'refused'; filter: ConstraintFilter }
  /** How many preferred rules the host does not meet. */
  | { kind: 'allowed'; unmet: number };

export function checkConstraints(
  vm: ConstrainedVm,
  host: { id: string; labels: ReadonlyMap<string, string> },
  members: GroupMembers,
): ConstraintAnswer {
  let unmet = 0;
  for (const { label, operator, values, strength } of vm.labelRules) {
    const value = host.labels.get(label);
    const isOne = value !== undefined && values.includes(value);
    if (isOne === (operator === 'in')) continue;
    if (strength === 'strict') return { kind: 'refused', filter: 'label' };
    unmet += 1;
  }
  for (const rule of vm.groupRules) {
    if (meetsGroup(vm, rule, host.id, members)) continue;
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
