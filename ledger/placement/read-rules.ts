import { PlacementRules } from '../../model/placement/rules.ts';
import { type GroupMembers, noMembers, type VmRules, vmRulesOf } from '../../scheduler/constraints.ts';
import type { Transaction } from '../transaction.ts';

/** Labels of hosts, rules of VMs and members of groups, as placement, migrations, drains and the balancer ask about them. */

/** Of a row of "Vm". */
export const storedRules = PlacementRules.nullable();

/** The rules of a VM as it is asked about; null: it may run anywhere. @param stored its column, or its JSON */
export const rulesOfVm = (owner: string, stored: unknown): VmRules | null => vmRulesOf(owner, storedRules.parse(stored));

export const labelsOf = (stored: unknown): ReadonlyMap<string, string> =>
  new Map(Object.entries(stored as Record<string, string>));

/** Of the hosts that have any. */
export async function readHostLabels(tx: Transaction): Promise<Map<string, ReadonlyMap<string, string>>> {
  const rows = await tx.$queryRaw<{ id: string; labels: unknown }[]>`
    SELECT id, labels FROM "Host" WHERE "removedAt" IS NULL AND labels <> '{}'`;
  return new Map(rows.map(({ id, labels }) => [id, labelsOf(labels)]));
}

/** Of groups: a VM that migrates counts on both of its hosts. */
export async function readMembers(tx: Transaction, groups: readonly string[]): Promise<GroupMembers> {
  if (groups.length === 0) return noMembers;
  const rows = await tx.$queryRaw<{ group: string; host: string; vms: number }[]>`
    SELECT g.name AS "group", p.host, count(*)::int AS vms FROM "Vm" v CROSS JOIN LATERAL unnest(v.groups) AS g(name) CROSS JOIN LATERAL (
      SELECT v."hostId" AS host UNION SELECT m."toId" FROM "Migration" m WHERE m."vmId" = v.id AND m.reserved) p
    WHERE v.groups <> '{}' AND v.groups && ${[...groups]}::text[] AND v.state NOT IN ('pending', 'removed')
      AND g.name = ANY(${[...groups]}) AND p.host IS NOT NULL
    GROUP BY g.name, p.host`;
  return membersOf(rows);
}

export function membersOf(rows: readonly { group: string; host: string; vms: number }[]): GroupMembers {
  const members = new Map<string, Map<string, number>>();
  for (const { group, host, vms } of rows) {
    const counts = members.get(group) ?? new Map<string, number>();
    members.set(group, counts.set(host, vms));
  }
  return members;
}

/** The groups that rules name. */
export const groupsIn = (rules: readonly (VmRules | null)[]): string[] => [
  ...new Set(rules.flatMap((one) => one?.groupRules.map(({ group }) => group) ?? [])),
];
