import { Command } from 'commander';
import { BerthError } from '../../../model/errors.ts';
import { decideSpread } from '../../balance/decide.ts';
import { type BalancePolicy, balancePolicy } from '../../balance/site.ts';
import { createBerthRule, decisionInput } from './berth-rule.ts';
import { createCloudStackRule, createIncusRule, createProxmoxRule } from './other-rules.ts';
import { type BalanceRule, noRule } from './rule.ts';
import { type BalanceFigures, simulateBalance } from './simulate-balance.ts';
import { SimulatedSite } from './simulated-site.ts';
import { type BalanceTrace, generateBalanceTrace, type WorkloadName, workloads } from './workload.ts';

/** `npm run simulate -- balance`: rules of balancing side by side over a generated trace. */

type CreateRule = (site: SimulatedSite, threshold?: number, policy?: BalancePolicy) => BalanceRule;

const rules: Record<string, CreateRule> = {
  off: () => noRule,
  berth: (site, _threshold, policy) => createBerthRule(site, policy),
  proxmox: createProxmoxRule,
  cloudstack: createCloudStackRule,
  incus: createIncusRule,
};
/** Those that have a threshold of imbalance; by it they are brought to as many moves as Berth's. */
const others = ['proxmox', 'cloudstack', 'incus'];

interface Options {
  workload: string;
  hosts: string;
  hours: string;
  seed: string;
  rules: string;
  overcommit?: string;
  equalMoves?: string;
  leastGain?: string;
  decision?: boolean;
  json?: boolean;
}

type Print = (line: string) => void;

export function balanceCommand(out: Print): Command {
  return new Command('balance')
    .description('Runs the balancer, and the rules of other systems, over generated VMs')
    .option('--workload <name>', `distributions of ${Object.keys(workloads).join(' or ')}`, 'azure')
    .option('--hosts <number>', 'up to 5000', '32')
    .option('--hours <number>', 'simulated', '24')
    .option('--seed <number>', 'of the VMs', '1')
    .option('--rules <names>', `of ${Object.keys(rules).join(', ')}, with commas`, Object.keys(rules).join(','))
    .option('--overcommit <number>', 'vCPUs for each processor; the workload’s unless said')
    .option('--equal-moves <number>', 'gives the others the threshold at which they move about as often an hour of all hosts')
    .option('--least-gain <seconds>', 'the least gain of a move of Berth, in seconds of all processors of a host')
    .option('--decision', 'instead: measures one decision about the site with one host in twenty overloaded, and with all')
    .option('--json', 'one JSON object a line')
    .action((options: Options) => run(options, out));
}

function run(options: Options, out: Print): void {
  const trace = traceOf(options);
  if (options.decision === true) {
    measureDecision(trace, out);
    return;
  }
  const names = options.rules.split(',');
  for (const name of names)
    if (!Object.hasOwn(rules, name))
      throw badOption('--rules', `there is no rule ${JSON.stringify(name)}; there are ${Object.keys(rules).join(', ')}`);
  const policy =
    options.leastGain === undefined
      ? balancePolicy
      : { ...balancePolicy, leastGainS: number('--least-gain', options.leastGain, 0, 1e6) };
  const movesPerH = options.equalMoves === undefined ? null : number('--equal-moves', options.equalMoves, 0, 1e6);
  const figures: BalanceFigures[] = [];
  for (const name of names) {
    const create = rules[name]!;
    const threshold = movesPerH === null || !others.includes(name) ? undefined : thresholdFor(create, movesPerH, trace);
    const found = simulateBalance(trace, (site) => create(site, threshold, policy));
    const named = threshold === undefined ? found : { ...found, rule: `${name} (threshold ${threshold.toPrecision(3)})` };
    figures.push(named);
    if (options.json === true) out(JSON.stringify(named));
  }
  if (options.json !== true) for (const line of table(figures)) out(line);
}

function badOption(pointer: string, detail: string): BerthError {
  return new BerthError('bad-request', `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

function number(option: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!(value >= least && value <= most)) throw badOption(option, `expected ${least} to ${most}; found ${JSON.stringify(text)}`);
  return value;
}

function traceOf({ workload, seed, hosts, hours, overcommit }: Options): BalanceTrace {
  if (!Object.hasOwn(workloads, workload))
    throw badOption('--workload', `expected ${Object.keys(workloads).join(' or ')}; found ${JSON.stringify(workload)}`);
  return generateBalanceTrace(
    workload as WorkloadName,
    Math.trunc(number('--seed', seed, 0, 2 ** 31)),
    Math.trunc(number('--hosts', hosts, 2, 5000)),
    number('--hours', hours, 0.1, 10_000),
    overcommit === undefined ? undefined : number('--overcommit', overcommit, 1, 20),
  );
}

/** By halving intervals over the first hours of the trace. */
function thresholdFor(create: CreateRule, movesPerH: number, trace: BalanceTrace): number {
  const pilot = { ...trace, lastsS: Math.min(trace.lastsS, Math.max(24 * 3600, trace.lastsS / 20)) };
  let low = 0.001;
  let high = 1;
  for (let round = 0; round < 9; round++) {
    const middle = Math.sqrt(low * high);
    const { moves } = simulateBalance(pilot, (site) => create(site, middle));
    if (moves / (pilot.lastsS / 3600) > movesPerH) low = middle;
    else high = middle;
  }
  return Math.sqrt(low * high);
}

const columns: [title: string, of: (figures: BalanceFigures) => string][] = [
  ['moves', ({ moves }) => String(moves)],
  ['overloaded host-hours', ({ overloadH, overloadPercent }) => `${overloadH.toFixed(1)} (${overloadPercent.toFixed(2)} %)`],
  ['starved processor-hours', ({ starvedCpuH }) => starvedCpuH.toFixed(1)],
  ['ping-pong', ({ pingPong }) => String(pingPong)],
  [
    'moves without gain',
    ({ withoutGain, moves }) => `${withoutGain}${moves === 0 ? '' : ` (${((100 * withoutGain) / moves).toFixed(1)} %)`}`,
  ],
  ['moves below their cost', ({ belowCost }) => String(belowCost)],
  ['gained processor-hours', ({ gainedCpuH }) => gainedCpuH.toFixed(1)],
  ['predicted', ({ predictedCpuH }) => predictedCpuH?.toFixed(1) ?? ''],
  ['downtime, s', ({ downtimeS }) => downtimeS.toFixed(0)],
  ['mean use', ({ meanUse }) => meanUse.toFixed(3)],
  ['VMs refused', ({ refusedArrivals }) => String(refusedArrivals)],
  ['run, s', ({ runS }) => runS.toFixed(1)],
];

function table(figures: readonly BalanceFigures[]): string[] {
  const rows = [['', ...figures.map(({ rule }) => rule)], ...columns.map(([title, of]) => [title, ...figures.map(of)])];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  '),
  );
}

/** Milliseconds of processor time of a decision: the median of nine. */
function measureDecision(trace: BalanceTrace, out: Print): void {
  const site = new SimulatedSite(trace);
  for (let step = 0; step < 60; step++) site.advance();
  for (const part of [0.05, 1]) {
    const input = decisionInput(site, Math.ceil(trace.hosts * part), balancePolicy);
    const times = Array.from({ length: 9 }, () => {
      const before = process.cpuUsage();
      decideSpread(input);
      const { user, system } = process.cpuUsage(before);
      return (user + system) / 1000;
    }).sort((a, b) => a - b);
    const moves = decideSpread(input).reduce((sum, { outcome }) => sum + (outcome.kind === 'move' ? outcome.moves.length : 0), 0);
    const figures = {
      hosts: trace.hosts,
      vms: input.vms.length,
      asking: input.requests.length,
      moves,
      decision_cpu_ms: Math.round(times[4]! * 10) / 10,
    };
    out(JSON.stringify(figures));
  }
}
