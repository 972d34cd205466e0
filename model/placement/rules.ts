import { z } from 'zod';

/** Where VMs may run, by labels of hosts and beside which other VMs. */

export const ruleLimits = { labels: 32, rules: 16, values: 16 } as const;

const text = (what: string) =>
  z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/, {
    error: `expected ${what}: letters, digits, ".", "_", "/" and "-", at most 63, a letter or digit at either end`,
  });

/** What an operator says of a host: names with values. */
export const HostLabels = z
  .record(text('a label'), text('a value'))
  .refine((labels) => Object.keys(labels).length <= ruleLimits.labels, { error: `expected at most ${ruleLimits.labels} labels` })
  .meta({ example: { disk: 'ssd' } });
export type HostLabels = z.infer<typeof HostLabels>;

const strength = z
  .enum(['strict', 'preferred'])
  .default('strict')
  .meta({ description: '`strict`: other hosts are refused; `preferred`: they are worse' });

export const LabelRule = z
  .strictObject({
    label: text('a label'),
    operator: z.enum(['in', 'notIn']).default('in').meta({
      description: "`in`: the host's label has one of the values; `notIn`: it has none of them, or the host has no such label",
    }),
    values: z.array(text('a value')).min(1).max(ruleLimits.values),
    strength,
  })
  .meta({ id: 'LabelRule' });
export type LabelRule = z.infer<typeof LabelRule>;

export const GroupMembership = z
  .strictObject({ group: text('a group').meta({ description: 'A name among those of the owner', example: 'web' }), strength })
  .meta({ id: 'GroupMembership' });
export type GroupMembership = z.infer<typeof GroupMembership>;

const eachOnce = { error: 'expected each group once' };
const memberships = z
  .array(GroupMembership)
  .max(ruleLimits.rules)
  .refine((list) => new Set(list.map(({ group }) => group)).size === list.length, eachOnce);

export const ruleFields = {
  hostLabels: z.array(LabelRule).max(ruleLimits.rules).meta({ description: 'Labels of the hosts that it may run on' }),
  affinity: memberships.meta({ description: 'Groups of VMs that run on one host' }),
  antiAffinity: memberships.meta({ description: 'Groups of VMs that run on different hosts' }),
};

/** The same where none has to be named. */
export const optionalRules = {
  hostLabels: ruleFields.hostLabels.optional(),
  affinity: ruleFields.affinity.optional(),
  antiAffinity: ruleFields.antiAffinity.optional(),
};

/** As the ledger keeps them. */
export const PlacementRules = z.strictObject(ruleFields);
export type PlacementRules = z.infer<typeof PlacementRules>;

/** Some of the fields of PlacementRules. */
export type RuleChange = { [F in keyof PlacementRules]?: PlacementRules[F] | undefined };

/** The fields of an order that have rules. */
export const ruledFields = (change: RuleChange): (keyof PlacementRules)[] =>
  (['hostLabels', 'affinity', 'antiAffinity'] as const).filter((field) => (change[field]?.length ?? 0) > 0);

/** Hosts are promised without regard to rules. */
export const unpromised = 'expected none for a lease with a fixed start';

const noRules: PlacementRules = { hostLabels: [], affinity: [], antiAffinity: [] };

export const rulesOrNone = (rules: PlacementRules | null): PlacementRules => rules ?? noRules;

/** The rules with some of them replaced; null: none are left. */
export function changedRules(before: PlacementRules | null, change: RuleChange): PlacementRules | null {
  const { hostLabels, affinity, antiAffinity } = rulesOrNone(before);
  const rules = {
    hostLabels: change.hostLabels ?? hostLabels,
    affinity: change.affinity ?? affinity,
    antiAffinity: change.antiAffinity ?? antiAffinity,
  };
  return Object.values(rules).every((list) => list.length === 0) ? null : rules;
}

/** A group as the site knows it: its name is its owner's. */
export const groupKey = (owner: string, group: string): string => `${owner} ${group}`;

/** The groups that a VM with these rules is a member of. */
export function groupsOf(owner: string, rules: PlacementRules | null): string[] {
  const { affinity, antiAffinity } = rulesOrNone(rules);
  return [...new Set([...affinity, ...antiAffinity].map(({ group }) => groupKey(owner, group)))].sort();
}
