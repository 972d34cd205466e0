import { Command } from 'commander';
import { BerthError } from '../../../model/errors.ts';
import { audit } from '../audit/audit.ts';
import { configurations } from '../configurations.ts';
import { generateTrace } from '../generate-trace.ts';
import { measure } from '../metrics.ts';
import type { Schedule } from '../simulator.ts';
import type { Trace } from '../trace.ts';
import { type Cell, simulateCells } from './simulate-cells.ts';

/** `npm run simulate -- cells`: one site against the same hosts in cells, over a generated trace. Every cell is audited. */

interface Options {
  generate: string;
  seed: string;
  config: string;
  cells: string;
  json?: boolean;
}

type Print = (line: string) => void;

/** @param broken takes what the audit finds wrong */
export function cellsCommand(out: Print, broken: Print): Command {
  return new Command('cells')
    .description('Runs a trace over one site, and over the same hosts in cells with a planner each, behind a router')
    .option('--generate <name>', 'the trace, as without cells', 'scale_par_n1000_l5000')
    .option('--seed <number>', 'of the trace', '1')
    .option('--config <name>', `one of ${Object.keys(configurations).join(', ')}`, 'predeploy-susp')
    .option('--cells <numbers>', 'how many, with commas', '1,2,4')
    .option('--json', 'one JSON object a line')
    .action((options: Options) => run(options, out, broken));
}

function run({ generate, seed, config, cells, json }: Options, out: Print, broken: Print): void {
  const trace = generateTrace(generate, Number(seed));
  const policy = configurations[config];
  if (trace === null || policy === undefined || !Number.isInteger(Number(seed)))
    throw new BerthError('bad-request', `There is no trace ${generate} of seed ${seed}, or no configuration ${config}`);
  for (const count of cells.split(',').map(Number)) {
    if (!Number.isInteger(count) || count < 1 || count > trace.hosts.count)
      throw new BerthError('bad-request', `--cells: expected numbers from 1 to ${trace.hosts.count}; found ${cells}`);
    const result = simulateCells(trace, policy, count);
    for (const cell of result.cells)
      for (const sentence of audit(cell.trace, cell.schedule)) broken(`${cell.trace.name}: BUG: ${sentence}`);
    const { be_done, ar_done, rejections, all_be_completion_s, util_useful, wait_mean_s, wait_p95_s, suspensions } = measure(
      trace,
      merged(trace, result.cells),
    );
    const cpu = result.cells.map(({ cpuS }) => cpuS);
    const figures = {
      cells: count,
      done: be_done + ar_done,
      rejections,
      passed_on: result.passedOn,
      all_be_completion_s,
      util_useful,
      wait_mean_s,
      wait_p95_s,
      suspensions,
      cpu_s: rounded(cpu.reduce((sum, one) => sum + one, 0)),
      /** Of the cell with most: what a site waits for, since cells plan beside each other. */
      cpu_s_of_a_cell: rounded(Math.max(...cpu)),
    };
    out(json === true ? JSON.stringify({ trace: trace.name, config, ...figures }) : describe(figures));
  }
}

const rounded = (value: number): number => Math.round(value * 100) / 100;

const describe = (figures: Record<string, number>): string =>
  Object.entries(figures)
    .map(([name, value]) => `${name} ${value}`)
    .join('  ');

/** All cells as one schedule, by which they are measured like one site. */
function merged({ leases }: Trace, cells: readonly Cell[]): Schedule {
  const ids = new Set(leases.map(({ id }) => id));
  const of = <T>(list: (schedule: Schedule) => Iterable<T>) => cells.flatMap(({ schedule }) => [...list(schedule)]);
  return {
    policy: cells[0]!.schedule.policy,
    actions: of(({ actions }) => actions),
    answers: new Map(of(({ answers }) => answers).filter(([id]) => ids.has(id))),
    endedAtS: new Map(of(({ endedAtS }) => endedAtS)),
    drained: [],
  };
}
