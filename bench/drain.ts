import { openLedger } from '../ledger/client.ts';
import { fitMigrationModel } from '../scheduler/drains/migration-model.ts';
import { operationsOf } from '../scheduler/drains/migration-operations.ts';
import {
  crowded,
  type DrainAnswer,
  drainSoon,
  gatherOn,
  openAgain,
  secondsFrom,
  setSchedulable,
  untilDrain,
} from '../test/site/drains.ts';
import { limitNetwork, openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

/** What guests do while they migrate. The server answers the one request a second that its own client sends. */
const loads: { name: string; memoryMiB: number; command: string[] }[] = [
  { name: 'idle', memoryMiB: 512, command: ['sleep', '86400'] },
  { name: 'cpu', memoryMiB: 128, command: ['sh', '-c', 'while :; do :; done'] },
  {
    name: 'memory',
    memoryMiB: 256,
    command: [
      'sh',
      '-c',
      'mount -t tmpfs none /mnt; while :; do dd if=/dev/urandom of=/mnt/x bs=256k count=32 2>/dev/null; sleep 1; done',
    ],
  },
  {
    name: 'web',
    memoryMiB: 192,
    command: [
      'perl',
      '-MIO::Socket::INET',
      '-e',
      '$s=IO::Socket::INET->new(LocalPort=>80,Listen=>9,ReuseAddr=>1); if(!fork){while(1){$c=IO::Socket::INET->new("127.0.0.1:80");print $c "GET /\\n";<$c>;sleep 1}} while($c=$s->accept){<$c>;print $c "x"x1024,"\\n";close $c}',
    ],
  },
];

/** Migration modes, and the bandwidth of the network between the hosts; null: unlimited. */
const modes = {
  'live.full': { mode: 'live', mbit: null },
  'cold.full': { mode: 'cold', mbit: null },
  'live.100Mbit': { mode: 'live', mbit: 100 },
  'cold.100Mbit': { mode: 'cold', mbit: 100 },
} as const;
type Mode = keyof typeof modes;
const modeNames = Object.keys(modes) as Mode[];

/** The model learns from this many migrations of a mode before its predictions count. */
const trainingMoves = 10;
/** Margin beyond the earliest promised time: long enough to sample the guests' writes before the drain must begin. */
const slackMs = 4000;

interface MoveDuration {
  vm: string;
  seconds: number;
}

interface Outcome {
  strategy: 'sequential' | 'parallel';
  vms: number;
  predictedS: number;
  boundS: number;
  /** Time spent migrating; excludes pauses between migrations when the drain is ahead of schedule. */
  tookS: number;
  earlyS: number;
  /** How long the host would have been idle if the drain had started at once, as other systems do. */
  earlyAtOnceS: number;
  /** Number of earlier migrations in this mode. */
  priorMoves: number;
  /** The prediction of a model without measurements. */
  priorS: number;
  /** How long each migration took; `timeline`: when each was requested, began and ended, in seconds from the first request. */
  moveDurations: MoveDuration[];
  timeline: string[];
}

/**
 * Drains of four, two and one VMs, sequentially and in parallel: the prediction made when the first migration began
 * against the duration of all. `drain.mape.<mode>` is the mean absolute error in per cent, against that of a model
 * without measurements; `drain.boundHeld` is the share of drains within their 99 % bound; `drain.earlyS` is the time from
 * empty to the deadline, against that of a drain that starts at once. `--modes` selects some of live.full, cold.full,
 * live.100Mbit and cold.100Mbit; each runs on a site of its own, with `--runs` rounds of six drains.
 */
export async function benchDrain({ runs, modes: wanted }: BenchOptions): Promise<void> {
  const names = wanted ?? modeNames;
  const unknown = names.filter((name) => !Object.hasOwn(modes, name));
  if (unknown.length > 0) throw new Error(`there is no mode ${unknown.join(', ')}: there are ${modeNames.join(', ')}`);
  for (const name of names as Mode[]) report(name, await drainRounds(name, runs ?? 2));
}

/** Runs training rounds until predictions count, then as many rounds as requested. */
async function drainRounds(name: Mode, rounds: number): Promise<Outcome[]> {
  const test = await openSite(3, crowded);
  try {
    const hosts = test.site.hosts.map(({ id }) => id);
    const spec = { image: 'debian-12', timeoutS: 86_400, lease: { kind: 'bestEffort', durationS: 86_400 } };
    const specs = loads.map(({ name: task, memoryMiB, command }) => {
      return { ...spec, name: task, command, resources: { vcpus: 1, memoryMiB, diskMiB: 64 } };
    });
    const vms = (await gatherOn(test, hosts[0]!, specs)).flatMap((task) => task.vms);
    // No further VM arrives, so no host makes a template of what it has booted.
    await setSchedulable(test, hosts, false);
    const { mbit } = modes[name];
    if (mbit !== null) await limitNetwork(test.site.hosts, mbit);
    const outcomes: Outcome[] = [];
    const counted = () => outcomes.filter(({ priorMoves: before }) => before >= trainingMoves).length;
    for (let round = 0; counted() < rounds * 6; round += 1)
      outcomes.push(...(await drainRound(test, name, vms, round % 2 === 0 ? 'sequential' : 'parallel', outcomes)));
    return outcomes;
  } finally {
    await test.stop();
  }
}

/**
 * Drains four VMs from one host to both others, then the two on one of these to both others, then its last one to the
 * host that has three.
 */
async function drainRound(
  test: TestSite,
  name: Mode,
  vms: string[],
  strategy: Outcome['strategy'],
  before: readonly Outcome[],
): Promise<Outcome[]> {
  const round: Outcome[] = [];
  for (const count of [4, 2, 1]) {
    const at = await countByHost(test, vms);
    const host = at.find((one) => one.count === count)?.id;
    if (host === undefined) throw new Error(`no host has ${count} of the VMs: ${JSON.stringify(at)}`);
    const empty = count === 1 ? at.filter((one) => one.count === 0) : [];
    for (const { id } of empty) await test.operator.callWithRetry('PATCH', `/v1/hosts/${id}`, { acceptsMigrations: false });
    round.push(await drainOnce(test, { name, host, vms: count, strategy }, [...before, ...round]));
    for (const { id } of empty) await test.operator.callWithRetry('PATCH', `/v1/hosts/${id}`, { acceptsMigrations: true });
  }
  return round;
}

async function countByHost({ operator, site }: TestSite, vms: string[]): Promise<{ id: string; count: number }[]> {
  const at = await Promise.all(
    vms.map(async (vm) => (await operator.callWithRetry<{ host: string }>('GET', `/v1/vms/${vm}`)).body.host),
  );
  return site.hosts.map(({ id }) => ({ id, count: at.filter((host) => host === id).length }));
}

/** Drains with a deadline slightly beyond the earliest promised time. */
async function drainOnce(
  test: TestSite,
  { name, host, vms, strategy }: { name: Mode; host: string; vms: number; strategy: Outcome['strategy'] },
  earlier: readonly Outcome[],
): Promise<Outcome> {
  const requested = await drainSoon(test, host, slackMs, { strategy, mode: modes[name].mode });
  const drain = await untilDrain(test, requested.id, undefined, 900);
  if (drain.state !== 'empty') throw new Error(`the drain of ${host} is ${drain.state}: ${JSON.stringify(drain.remaining)}`);
  await openAgain(test, host);
  await setSchedulable(test, [host], false);
  const { tookS, ...seen } = await measureDrain(test, drain);
  const outcome: Outcome = {
    strategy,
    vms,
    predictedS: drain.predictedS!,
    boundS: drain.boundS!,
    tookS,
    earlyS: secondsFrom(drain.emptiedAt!, drain.deadline),
    earlyAtOnceS: secondsFrom(drain.createdAt, drain.deadline) - tookS,
    priorMoves: earlier.reduce((sum, one) => sum + one.vms, 0),
    ...seen,
  };
  logProgress(
    `${name}, ${strategy}, ${vms} VMs: predicted ${outcome.predictedS.toFixed(1)} s, at most ${outcome.boundS.toFixed(1)} s, took ${tookS.toFixed(1)} s (each ${outcome.moveDurations.map(({ seconds }) => seconds.toFixed(1)).join(', ')}: ${outcome.timeline.join(', ')}), empty ${outcome.earlyS.toFixed(1)} s before its deadline`,
  );
  return outcome;
}

interface MeasuredDrain {
  tookS: number;
  moveDurations: MoveDuration[];
  timeline: string[];
  priorS: number;
}

/** The duration of the drain and of each of its migrations, and the total that a model without measurements predicts. */
async function measureDrain({ site }: TestSite, drain: DrainAnswer): Promise<MeasuredDrain> {
  const ledger = openLedger(site.databaseUrl, 1);
  try {
    const moves = await ledger.migration.findMany({ where: { requestedBy: drain.id }, orderBy: { createdAt: 'asc' } });
    let busyMs = 0;
    let untilMs = 0;
    for (const { createdAt, finishedAt } of moves) {
      const endMs = finishedAt!.getTime();
      busyMs += Math.max(0, endMs - Math.max(untilMs, createdAt.getTime()));
      untilMs = Math.max(untilMs, endMs);
    }
    const tookS = (busyMs + Date.parse(drain.emptiedAt!) - untilMs) / 1000;
    const rows = await ledger.measurement.findMany({
      where: { OR: drain.moves.map(({ migration }) => ({ id: { startsWith: `${migration}/` } })) },
    });
    const of = (migration: string) => rows.filter(({ id }) => id.startsWith(`${migration}/`));
    const operations = drain.moves.flatMap(({ migration, from, to }) => {
      const row = of(migration)[0];
      if (row === undefined || to === null) throw new Error(`nothing was measured of ${migration}`);
      const { vmId: vm, memoryMiB, residentMiB, dirtyMiBPerS } = row;
      const load = { vm, memoryMiB, residentMiB, dirtyMiBPerS };
      return operationsOf(row.kind === 'live' ? 'live' : 'cold', { from, to, concurrency: 1, load });
    });
    const each = drain.moves.map(({ vm, migration }) => ({
      vm,
      seconds: of(migration).reduce((sum, { seconds }) => sum + seconds, 0),
    }));
    const since = (at: Date | null) => ((at!.getTime() - moves[0]!.createdAt.getTime()) / 1000).toFixed(1);
    const course = moves.map(({ createdAt, startedAt, finishedAt }) => [createdAt, startedAt, finishedAt].map(since).join('-'));
    return { tookS, moveDurations: each, timeline: course, priorS: fitMigrationModel([]).predict(operations).mean };
  } finally {
    await ledger.$disconnect();
  }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

function report(name: Mode, outcomes: readonly Outcome[]): void {
  const counted = outcomes.filter(({ priorMoves: before }) => before >= trainingMoves);
  const mape = (list: readonly Outcome[], of: (one: Outcome) => number) =>
    100 * mean(list.map((one) => Math.abs(of(one) / one.tookS - 1)));
  const predicted = ({ predictedS }: Outcome) => predictedS;
  const by = (strategy: Outcome['strategy']) => counted.filter((one) => one.strategy === strategy);
  printFigure(
    `drain.mape.${name}`,
    mape(counted, predicted),
    '%',
    mape(counted, ({ priorS }) => priorS),
    { drains: counted.length, sequential: mape(by('sequential'), predicted), parallel: mape(by('parallel'), predicted) },
  );
  const held = counted.filter(({ tookS, boundS }) => tookS <= boundS).length;
  printFigure('drain.boundHeld', (100 * held) / counted.length, '%', 99, { mode: name, drains: counted.length });
  const early = counted.map(({ earlyS }) => earlyS);
  printFigure('drain.earlyS', median(early), 's', median(counted.map(({ earlyAtOnceS }) => earlyAtOnceS)), {
    mode: name,
    late: early.filter((seconds) => seconds < 0).length,
    allowed: median(counted.map(({ predictedS }) => 0.25 * predictedS + 5)),
  });
  const of = (strategy: Outcome['strategy'], vms: number) =>
    outcomes.filter((one) => one.strategy === strategy && one.vms === vms);
  const took = (list: readonly Outcome[]) => mean(list.map(({ tookS }) => tookS));
  const movesIn = (list: readonly Outcome[]) => list.flatMap((one) => one.moveDurations);
  const vmsIn = (list: readonly Outcome[]) => [...new Set(movesIn(list).map(({ vm }) => vm))];
  /** Each VM has the same weight, however often it migrated: the guest's load influences the duration most. */
  const each = (list: readonly Outcome[], vms: readonly string[]) =>
    mean(vms.map((vm) => mean(movesIn(list).flatMap((one) => (one.vm === vm ? one.seconds : [])))));
  // Zhao and Figueiredo: a sequential migration takes the same time however many there are; in parallel the total is
  // shorter and each migration longer.
  const pair = vmsIn(of('sequential', 2));
  const all = vmsIn(of('sequential', 4));
  printFigure('drain.sequence.perVmS', each(of('sequential', 4), pair), 's', each(of('sequential', 2), pair), {
    mode: name,
    vms: `${pair.length}, each among 4 against among 2`,
  });
  printFigure('drain.parallel.totalS', took(of('parallel', 4)), 's', took(of('sequential', 4)), { mode: name, vms: 4 });
  printFigure('drain.parallel.eachS', each(of('parallel', 4), all), 's', each(of('sequential', 4), all), { mode: name, vms: 4 });
}
