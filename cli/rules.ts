import type { Command } from 'commander';
import { collectGroup, collectLabelRule, given } from './options.ts';

/** Where VMs may run. */
export interface RuleOptions {
  hostLabel?: object[] | undefined;
  affinity?: object[] | undefined;
  antiAffinity?: object[] | undefined;
}

export function addRuleOptions(command: Command): Command {
  return command
    .option(
      '--host-label <rule>',
      'hosts with label=value,value, or without: label!=value; :preferred; repeatable',
      collectLabelRule,
    )
    .option('--affinity <group>', 'beside the others of a group of VMs; group:preferred; repeatable', collectGroup)
    .option('--anti-affinity <group>', 'apart from the others of a group; group:preferred; repeatable', collectGroup);
}

/** As the API takes them; only what was given. */
export const rulesOf = ({ hostLabel, affinity, antiAffinity }: RuleOptions): Record<string, unknown> =>
  given({ hostLabels: hostLabel, affinity, antiAffinity });
