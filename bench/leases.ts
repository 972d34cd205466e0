import type { Lease } from '../scheduler/leases/lease.ts';
import { audit } from '../scheduler/simulation/audit/audit.ts';
import { configurations, type SimulationPolicy } from '../scheduler/simulation/configurations.ts';
import { experiment3Names, generateTrace } from '../scheduler/simulation/generate-trace.ts';
import { type Metrics, measure } from '../scheduler/simulation/metrics.ts';
import { SimulatedPlanner } from '../scheduler/simulation/simulated-planner.ts';
import { type Schedule, simulate } from '../scheduler/simulation/simulator.ts';
import { hostsOf, type Trace } from '../scheduler/simulation/trace.ts';
import { logProgress, median, printFigure } from './figures.ts';
import { type HaizeaRow, loadHaizea, loadTrace, mean } from './haizea.ts';

interface Timed {
  schedule: Schedule;
  metrics: Metrics;
  cpuS: number;
}

/** Every schedule is audited; the audit is not timed. */
function timed(trace: Trace, policy: SimulationPolicy): Timed {
  const before = process.cpuUsage();
  const schedule = simulate(trace, policy);
  const spent = process.cpuUsage(before);
  const broken = audit(trace, schedule);
  if (broken.length > 0) throw new Error(`BUG: ${trace.name}: ${broken[0]}`);
  return { schedule, metrics: measure(trace, schedule), cpuS: (spent.user + spent.system) / 1e6 };
}

/** `npm run bench -- leases`: readable tables on standard error, a JSON line a figure on standard output. */
export async function benchLeases(): Promise<void> {
  benchHaizea();
  benchSpeed();
  benchOneMore();
  benchPaper();
}

/** Compares our figures with Haizea's on every trace in each configuration; audits every schedule. */
function benchHaizea(): void {
  const rows = loadHaizea();
  // The first runs include JIT compilation, which would count as scheduling time.
  for (const row of rows.slice(0, 5)) simulate(loadTrace(row.trace), configurations[row.config]!);
  const results = rows.map((row) => ({ row, ...timed(loadTrace(row.trace), configurations[row.config]!) }));
  logProgress('                                              complete (s)            mean wait (s)    refused       leases/s');
  logProgress('trace                    configuration      Haizea   ours  ratio     Haizea   ours  Haizea ours  Haizea    ours');
  for (const { row, metrics, cpuS } of results) logProgress(haizeaLine(row, metrics, cpuS));
  for (const transfers of [true, false]) {
    const kind = transfers ? 'transfers' : 'noTransfers';
    const group = results.filter(({ row }) => row.transfers === transfers && row.completionS !== null);
    const ratios = group.map(({ row, metrics }) => metrics.all_be_completion_s / row.completionS!);
    const worst = ratios.indexOf(Math.max(...ratios));
    const { row } = group[worst]!;
    logProgress(`${kind}: on average ${((1 - mean(ratios)) * 100).toFixed(2)} % earlier; worst case ${row.trace} ${row.config}`);
    const completion = mean(group.map(({ metrics }) => metrics.all_be_completion_s));
    const theirs = mean(group.map((each) => each.row.completionS!));
    printFigure(`leases.completion.${kind}.mean`, completion, 's', theirs);
    const worstOurs = group[worst]!.metrics.all_be_completion_s;
    const worstName = `leases.completion.${kind}.worst.${row.trace}.${row.config}`;
    printFigure(worstName, worstOurs, 's', row.completionS!);
    printFigure(
      `leases.wait.${kind}.mean`,
      mean(group.map((g) => g.metrics.wait_mean_s)),
      's',
      mean(group.map((g) => g.row.waitMeanS)),
    );
    printFigure(
      `leases.refused.${kind}`,
      sum(group.map((g) => g.metrics.ar_rejected)),
      'reservations',
      sum(group.map((g) => g.row.rejected)),
    );
  }
}

function haizeaLine(row: HaizeaRow, metrics: Metrics, cpuS: number): string {
  const ratio = row.completionS === null ? 'failed' : (metrics.all_be_completion_s / row.completionS).toFixed(4);
  return [
    row.trace.padEnd(24),
    row.config.padEnd(17),
    String(row.completionS ?? '–').padStart(7),
    String(metrics.all_be_completion_s).padStart(6),
    ratio.padStart(6),
    row.waitMeanS.toFixed(0).padStart(9),
    metrics.wait_mean_s.toFixed(0).padStart(6),
    String(row.rejected).padStart(6),
    String(metrics.ar_rejected).padStart(4),
    (row.leasesPerS?.toFixed(0) ?? '–').padStart(8),
    (metrics.leases / cpuS).toFixed(0).padStart(7),
  ].join(' ');
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Leases per second of CPU, on the traces that Haizea was timed on and on traces of 1000 hosts, on which it was not. */
function benchSpeed(): void {
  const haizea = loadHaizea();
  for (const name of ['scale_par_n8_l1000', 'scale_par_n100_l1000', 'scale_ser_n100_l1000']) {
    for (const config of ['novm', 'predeploy-susp']) {
      const trace = loadTrace(name);
      const { cpuS } = timed(trace, configurations[config]!);
      const theirs = haizea.find((row) => row.trace === name && row.config === config)?.leasesPerS ?? null;
      const value = trace.leases.length / cpuS;
      printFigure(`leases.speed.${name}.${config}`, value, 'leases/s', theirs);
    }
  }
  for (const name of ['scale_ser_n1000_l5000', 'scale_par_n1000_l5000']) {
    const trace = generateTrace(name, 1)!;
    const { cpuS } = timed(trace, configurations['predeploy-susp']!);
    printFigure(`leases.cpu.${name}.predeploy-susp`, cpuS, 's', mostCpuS);
  }
}

/** What a trace of 5,000 leases on 1,000 hosts may take: the baseline of its figure. */
const mostCpuS = 12;

const probes = 200;

/** The cost of one more lease, by the number of hosts and by the number of waiting leases; baseline: the smallest. */
function benchOneMore(): void {
  const policy = configurations['predeploy-susp']!;
  for (const kind of ['bestEffort', 'reservation'] as const) {
    let least: number | null = null;
    for (const [hosts, pending] of [
      [100, 100],
      [200, 100],
      [400, 100],
      [800, 100],
      [100, 200],
      [100, 400],
      [100, 800],
    ] as const) {
      const value = oneMoreMs(hosts, pending, kind, policy);
      least ??= value;
      printFigure(`leases.oneMore.${kind}.${hosts}hosts.${pending}pending`, value, 'ms', least);
    }
  }
}

/** The median time of a submission and the decision after it, on a full site with waiting leases. */
function oneMoreMs(hosts: number, pending: number, kind: 'bestEffort' | 'reservation', policy: SimulationPolicy): number {
  const size = { name: 'full', hosts: { count: hosts, vcpus: 2, memoryMiB: 1024 }, leases: [] };
  const planner = SimulatedPlanner.create(hostsOf(size), policy);
  const vm = { submittedAtS: 0, vcpus: 1, memoryMiB: 512, image: '', imageMiB: 0 };
  const submit = (lease: Omit<Lease, keyof typeof vm>) => planner.submit({ ...vm, ...lease }, 0);
  for (let i = 0; i < hosts * 2; i++) submit({ id: `running${i}`, kind: 'bestEffort', durationS: 5000 + i, nodes: 1 });
  planner.decide(0);
  for (let i = 0; i < pending; i++) {
    if (i % 4 === 0) submit({ id: `r${i}`, kind: 'reservation', startAtS: 1000 + 200 * i, durationS: 150, nodes: 4 });
    else submit({ id: `p${i}`, kind: 'bestEffort', durationS: 900, nodes: 1 });
  }
  planner.decide(0);
  const times: number[] = [];
  for (let i = 0; i < probes; i++) {
    const id = `probe${i}`;
    const start = process.hrtime.bigint();
    if (kind === 'bestEffort') submit({ id, kind, durationS: 900, nodes: 1 });
    else submit({ id, kind, startAtS: 2500, durationS: 300, nodes: 4 });
    planner.decide(0);
    times.push(Number(process.hrtime.bigint() - start) / 1e6);
    planner.cancel(id, 0);
  }
  return median(times);
}

/** Reproduces Sotomayor's findings from generated traces, with the five configurations of the paper. */
function benchPaper(): void {
  const five = ['noVM_nosuspend', 'VM_nosuspend', 'VM_nosuspend_ov10', 'VM_suspend_ov10', 'VM_suspend_cache_ov10'];
  const figures = new Map<string, { util: number[]; end: number[] }>();
  for (const name of experiment3Names()) {
    const trace = generateTrace(name, 1)!;
    for (const config of five) {
      const { metrics } = timed(trace, configurations[config]!);
      const batch = name.split('_')[1]!;
      for (const key of [`all ${config}`, `${batch} ${config}`, `${name} ${config}`]) {
        const entry = figures.get(key) ?? { util: [], end: [] };
        figures.set(key, entry);
        entry.util.push(metrics.util_useful);
        entry.end.push(metrics.all_be_completion_s);
      }
    }
  }
  const groups = ['p4h_long_ar100_be25', 'long', 'medium', 'short', 'all'];
  logProgress(
    `\n${''.padEnd(22)}${five.map((config) => config.padStart(22)).join('')}   utilization, then completion of all batch (s)`,
  );
  for (const group of groups) {
    const cells = five.map((config) => {
      const { util, end } = figures.get(`${group} ${config}`)!;
      return `${(100 * mean(util)).toFixed(1)} % ${mean(end).toFixed(0)}`.padStart(22);
    });
    logProgress(`${group.padEnd(22)}${cells.join('')}`);
    for (const config of five) {
      const value = mean(figures.get(`${group} ${config}`)!.util);
      printFigure(`leases.paper.utilization.${group}.${config}`, value, '1', mean(figures.get(`${group} ${five[0]}`)!.util));
    }
  }
  benchSatisfaction();
  benchDeployed();
}

/** Client satisfaction: the time that clients received divided by the time that they requested. */
function benchSatisfaction(): void {
  for (const name of ['I', 'II']) {
    const trace = generateTrace(name, 1)!;
    const policy = configurations.VM_suspend_ov10!;
    const { schedule } = timed(trace, policy);
    const got = trace.leases.map((lease) => {
      const start = schedule.actions.find((action) => action.kind === 'start' && action.lease === lease.id);
      return start?.kind === 'start' ? (schedule.endedAtS.get(lease.id)! - start.workFromS) / lease.durationS : 0;
    });
    const without = mean(unscheduledSatisfaction(trace, policy));
    logProgress(
      `trace ${name}: client satisfaction ${mean(got).toFixed(3)} with scheduled transfers, ${without.toFixed(3)} without`,
    );
    printFigure(`leases.paper.satisfaction.${name}`, mean(got), '1', without);
  }
}

/**
 * Client satisfaction when an image is requested at the start of its reservation and the link serves requests in that
 * order.
 */
function unscheduledSatisfaction(trace: Trace, policy: SimulationPolicy): number[] {
  let linkFreeAt = 0;
  const byStart = trace.leases.toSorted((a, b) => a.startAtS! - b.startAtS!);
  return byStart.map((lease) => {
    linkFreeAt = Math.max(linkFreeAt, lease.startAtS!) + lease.imageMiB / policy.images!.rateMiBPerS;
    return Math.max(0, lease.startAtS! + lease.durationS - linkFreeAt) / lease.durationS;
  });
}

/** MB that hosts receive, with and without caches. */
function benchDeployed(): void {
  for (const name of ['III', 'IV']) {
    const trace = generateTrace(name, 1)!;
    const [without, cached] = ['VM_suspend_ov10', 'VM_suspend_cache_ov10'].map(
      (config) => timed(trace, configurations[config]!).metrics,
    );
    logProgress(`trace ${name}: ${cached!.mb_deployed} MB deployed with caches of 3 images, ${without!.mb_deployed} without`);
    printFigure(`leases.paper.deployed.${name}`, cached!.mb_deployed, 'MB', without!.mb_deployed);
  }
}
