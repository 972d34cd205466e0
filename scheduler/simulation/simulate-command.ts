import { readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { Command, CommanderError } from 'commander';
import { BerthError } from '../../model/errors.ts';
import { audit } from './audit/audit.ts';
import { balanceCommand } from './balance/balance-command.ts';
import { cellsCommand } from './cells/cells-command.ts';
import { configurations } from './configurations.ts';
import { generateTrace } from './generate-trace.ts';
import { type Metrics, measure } from './metrics.ts';
import { plot } from './plot.ts';
import { type Schedule, simulate } from './simulator.ts';
import type { Trace } from './trace.ts';
import { readTrace } from './trace-formats.ts';

/** Used without --config. */
const defaultConfiguration = 'predeploy-susp';

/** The command `npm run simulate`: the only file of the scheduler that reads or writes anything. */

interface Options {
  trace?: string;
  generate?: string;
  seed: string;
  config?: string;
  compare?: boolean;
  json?: boolean;
  plot?: string;
  save?: string;
}

/** Runs the command line and returns its exit code: 0, 1 when a guarantee is broken, 2 when the input is wrong. */
export function main(argv: readonly string[], out: (line: string) => void, err: (line: string) => void): number {
  try {
    if (argv[0] === 'balance') {
      printing(balanceCommand(out), out, err).parse(argv.slice(1), { from: 'user' });
      return 0;
    }
    if (argv[0] === 'cells') {
      let wrong = 0;
      const broken = (sentence: string) => {
        wrong += 1;
        err(sentence);
      };
      printing(cellsCommand(out, broken), out, err).parse(argv.slice(1), { from: 'user' });
      return wrong === 0 ? 0 : 1;
    }
    return run(parse(argv, out, err), out, err);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (!(error instanceof BerthError)) throw error;
    err(error.message);
    for (const { pointer, detail } of error.fields.slice(1)) err(`  ${pointer || '/'}: ${detail}`);
    return 2;
  }
}

function printing(command: Command, out: (line: string) => void, err: (line: string) => void): Command {
  return command
    .exitOverride()
    .configureOutput({ writeOut: (text) => out(text.trimEnd()), writeErr: (text) => err(text.trimEnd()) });
}

function parse(argv: readonly string[], out: (line: string) => void, err: (line: string) => void): Options {
  const command = new Command('simulate')
    .description('Runs the lease scheduler over a trace and prints the metrics of the schedule')
    .option('--trace <file>', 'a trace: our JSON (also gzipped), the Standard Workload Format or Haizea’s LWF')
    .option(
      '--generate <name>',
      'instead: I, II, III, IV, p4h_<short|medium|long>_<ar025…ar100>_<be25|be50|be75>, acc_load<percent>, scale_<par|ser>_n<hosts>_l<leases>',
    )
    .option('--seed <number>', 'of the generated trace', '1')
    .option(
      '--config <name>',
      `one of ${Object.keys(configurations).join(', ')}; ${defaultConfiguration} unless said; with --compare, several with commas`,
    )
    .option('--compare', 'several configurations side by side: those of --config, or all')
    .option('--json', 'one JSON object (with --compare, one a configuration)')
    .option('--plot <file>', 'draws utilization over time and what each host does, as SVG')
    .option('--save <file>', 'writes the trace as JSON');
  return printing(command, out, err).parse(argv, { from: 'user' }).opts<Options>();
}

function run(options: Options, out: (line: string) => void, err: (line: string) => void): number {
  const trace = load(options);
  if (options.save !== undefined) write(options.save, `${JSON.stringify(trace)}\n`);
  const results = configurationsFrom(options).map((config) => {
    const before = process.cpuUsage();
    const schedule = simulate(trace, configurations[config]!);
    const { user, system } = process.cpuUsage(before);
    const cpuS = Math.max(1, user + system) / 1e6;
    const speed = { run_cpu_s: rounded(cpuS), leases_per_s: rounded(trace.leases.length / cpuS) };
    return { config, schedule, metrics: { ...measure(trace, schedule), ...speed }, broken: audit(trace, schedule) };
  });
  if (options.json === true)
    for (const { config, metrics } of results) out(JSON.stringify({ trace: trace.name, config, ...metrics }));
  else for (const line of table(results)) out(line);
  if (options.plot !== undefined) write(options.plot, plot(trace, results[0]!.schedule));
  for (const { config, broken } of results) for (const sentence of broken) err(`${config}: BUG: ${sentence}`);
  return results.some(({ broken }) => broken.length > 0) ? 1 : 0;
}

const rounded = (value: number): number => Math.round(value * 1e4) / 1e4;

function badOption(pointer: string, detail: string): BerthError {
  return new BerthError('bad-request', `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

function configurationsFrom(options: Options): string[] {
  const { compare = false, config } = options;
  if (compare && config === undefined) return Object.keys(configurations);
  const list = compare ? config!.split(',') : [config ?? defaultConfiguration];
  for (const name of list) {
    if (!Object.hasOwn(configurations, name)) {
      throw badOption(
        '--config',
        `there is no configuration ${JSON.stringify(name)}; there are ${Object.keys(configurations).join(', ')}`,
      );
    }
  }
  return list;
}

function load(options: Options): Trace {
  if ((options.trace === undefined) === (options.generate === undefined))
    throw badOption('--trace', 'expected either --trace or --generate');
  if (options.trace !== undefined) return readTrace(read(options.trace), options.trace.replace(/^.*\//, '').replace(/\..*$/, ''));
  const seed = Number(options.seed);
  if (!Number.isInteger(seed)) throw badOption('--seed', `expected a whole number; found ${JSON.stringify(options.seed)}`);
  const trace = generateTrace(options.generate!, seed);
  if (trace === null) throw badOption('--generate', `there is no kind of trace called ${JSON.stringify(options.generate)}`);
  return trace;
}

function read(file: string): string {
  try {
    const bytes = readFileSync(file);
    return (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes).toString('utf8');
  } catch (error) {
    throw badOption('--trace', `${file} can't be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function write(file: string, content: string): void {
  try {
    writeFileSync(file, content);
  } catch (error) {
    throw badOption(file, `can't be written: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Processor time of the simulation, without the audit and the output. */
interface Speed {
  run_cpu_s: number;
  leases_per_s: number;
}

function table(results: readonly { config: string; metrics: Metrics & Speed; schedule: Schedule }[]): string[] {
  const keys = Object.keys(results[0]!.metrics) as (keyof (Metrics & Speed))[];
  const width = Math.max(...keys.map((key) => key.length));
  const columns = results.map(({ config, metrics }) => [config, ...keys.map((key) => String(metrics[key]))]);
  const widths = columns.map((column) => Math.max(...column.map((cell) => cell.length)));
  return ['', ...keys].map(
    (key, row) => `${key.padEnd(width)}  ${columns.map((column, i) => column[row]!.padStart(widths[i]!)).join('  ')}`,
  );
}

if (import.meta.main) {
  process.exitCode = main(
    process.argv.slice(2),
    (line) => process.stdout.write(`${line}\n`),
    (line) => process.stderr.write(`${line}\n`),
  );
}
