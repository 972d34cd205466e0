import { run } from '../drivers/process.ts';
import { inside } from '../infra/site/host.ts';
import { openLedger } from '../prisma/client.ts';
import { fitMigrationModel, operationsOf } from '../scheduler/migration-model.ts';
import { openSite, type TestSite } from '../test/site/the-site.ts';
import { median, printLine, say } from './line.ts';
import type { BenchOptions } from './main.ts';

/** What guests do while they move. The server answers the one request a second that its own client sends. */
const loads: { name: string; memoryMiB: number; command: string[] }[] = [
  { name: 'idle', memoryMiB: 128, command: ['sleep', '86400'] },
  { name: 'cpu', memoryMiB: 192, command: ['sh', '-c', 'while :; do :; done'] },
  {
    name: 'memory',
    memoryMiB: 256,
    command: [
      'sh',
      '-c',
      'mount -t tmpfs none /mnt; while :; do dd if=/dev/urandom of=/mnt/x bs=256k count=64 2>/dev/null; sleep 1; done',
    ],
  },
  {
    name: 'web',
    memoryMiB: 256,
    command: [
      'perl',
      '-MIO::Socket::INET',
      '-e',
      '$s=IO::Socket::INET->new(LocalPort=>80,Listen=>9,ReuseAddr=>1); if(!fork){while(1){$c=IO::Socket::INET->new("127.0.0.1:80");print $c "GET /\\n";<$c>;sleep 1}} while($c=$s->accept){<$c>;print $c "x"x1024,"\\n";close $c}',
    ],
  },
];

interface Network {
  name: string;
  /** Between the hosts; null: as it comes. */
  mbit: number | null;
}

const full: Network = { name: 'full', mbit: null };
const slow: Network = { name: '100Mbit', mbit: 100 };

/** So many measurements of a network and a strategy are learned from before predictions count. */
const learned = 10;

interface Outcome {
  network: string;
  strategy: 'sequential' | 'parallel';
  vms: number;
  predictedS: number;
  boundS: number;
  tookS: number;
  earlyS: number;
  /** What starting at once, as others do, would have left idle. */
  earlyAtOnceS: number;
  /** Measurements of this network and strategy before it. */
  before: number;
  /** What a model without measurements would have said. */
  priorS: number;
  eachS: number[];
}

interface DrainAnswer {
  id: string;
  state: string;
  deadline: string;
  predictedS: number | null;
  boundS: number | null;
  createdAt: string;
  startedAt: string | null;
  emptiedAt: string | null;
  moves: { vm: string; from: string; to: string | null; migration: string }[];
  remaining: unknown[];
}

/**
 * Drains of two to four VMs, one after the other and side by side: what was predicted
 * when the first migration began against what it took. `drain.mape.…` is the mean absolute error in per cent, against
 * that of the model without measurements; `drain.boundHeld` the share of drains within their 99 % bound;
 * `drain.earlyS` the time from empty to the deadline, against that of a drain that starts at once.
 */
export const benchDrain = (options: BenchOptions): Promise<void> => drainAll(options, full);

/** The same at 100 Mbit/s. */
export const benchSlowDrain = (options: BenchOptions): Promise<void> => drainAll(options, slow);

async function drainAll({ runs }: BenchOptions, network: Network): Promise<void> {
  const rounds = Math.max(runs ?? 8, 4);
  const test = await openSite();
  try {
    const vms = await startGuests(test);
    const outcomes: Outcome[] = [];
    await limit(test, network.mbit);
    for (let round = 0; round < rounds; round += 1)
      for (const strategy of ['sequential', 'parallel'] as const)
        outcomes.push(await drainOnce(test, vms, network.name, strategy, outcomes));
    report(outcomes, network.name);
  } finally {
    await test.stop();
  }
}

async function startGuests(test: TestSite): Promise<string[]> {
  const hosts = test.site.hosts.map(({ id }) => id);
  await Promise.all(hosts.slice(1).map((id) => test.operator.insist('PATCH', `/v1/hosts/${id}`, { schedulable: false })));
  const spec = { image: 'debian-12', timeoutS: 86_400, lease: { kind: 'bestEffort', durationS: 86_400 } };
  const tasks = await Promise.all(
    loads.map(({ name, memoryMiB, command }) =>
      test.client.submit({ ...spec, name, command, resources: { vcpus: 1, memoryMiB, diskMiB: 64 } }),
    ),
  );
  for (const { id } of tasks) await test.client.until(id, ['running']);
  await Promise.all(hosts.slice(1).map((id) => test.operator.insist('PATCH', `/v1/hosts/${id}`, { schedulable: true })));
  const running = await Promise.all(tasks.map(({ id }) => test.client.task(id)));
  return running.flatMap(({ vms }) => vms);
}

async function limit(test: TestSite, mbit: number | null): Promise<void> {
  for (const host of test.site.hosts) {
    const pid = host.pid();
    if (mbit === null || pid === null) continue;
    const shaper = [
      'tc',
      'qdisc',
      'replace',
      'dev',
      'eth0',
      'root',
      'tbf',
      'rate',
      `${mbit}mbit`,
      'burst',
      '64k',
      'latency',
      '50ms',
    ];
    await run(inside(pid, shaper), { deadlineMs: 10_000 });
  }
}

/** Empties the host that has most of them, in the least time that it promises and two seconds more. */
async function drainOnce(
  test: TestSite,
  vms: string[],
  network: string,
  strategy: Outcome['strategy'],
  earlier: Outcome[],
): Promise<Outcome> {
  const at = await Promise.all(
    vms.map(async (vm) => (await test.operator.insist<{ host: string }>('GET', `/v1/vms/${vm}`)).body.host),
  );
  const counts = test.site.hosts.map(({ id }) => ({ id, count: at.filter((host) => host === id).length }));
  const { id: host, count } = counts.toSorted((a, b) => b.count - a.count)[0]!;
  const path = `/v1/hosts/${host}/drains`;
  const hurried = await test.operator.insist<{ detail: string }>('POST', path, { deadline: after(0.2), strategy });
  const earliest = Date.parse(/The earliest is (\S+Z)\./.exec(hurried.body.detail)?.[1] ?? '');
  if (Number.isNaN(earliest)) throw new Error(`no earliest time in ${JSON.stringify(hurried.body)}`);
  // Long enough for a look at what the guests write, before it has to begin.
  const deadline = new Date(earliest + 4000).toISOString();
  const answer = await test.operator.insist<DrainAnswer>('POST', path, { deadline, strategy });
  if (answer.status !== 202) throw new Error(`drain: ${answer.status} ${JSON.stringify(answer.body)}`);
  const drain = await over(test, answer.body.id);
  await test.operator.insist('PATCH', `/v1/hosts/${host}`, { schedulable: true, acceptsMigrations: true });
  if (drain.state !== 'empty') throw new Error(`the drain of ${host} is ${drain.state}: ${JSON.stringify(drain.remaining)}`);
  const of = (from: string, to: string) => (Date.parse(to) - Date.parse(from)) / 1000;
  const tookS = of(drain.startedAt!, drain.emptiedAt!);
  const like = earlier.filter((one) => one.network === network && one.strategy === strategy);
  const outcome: Outcome = {
    network,
    strategy,
    vms: count,
    predictedS: drain.predictedS!,
    boundS: drain.boundS!,
    tookS,
    earlyS: of(drain.emptiedAt!, drain.deadline),
    earlyAtOnceS: of(drain.createdAt, drain.deadline) - tookS,
    before: like.reduce((sum, one) => sum + one.vms, 0),
    ...(await measured(test, drain)),
  };
  say(
    `${network}, ${strategy}, ${count} VMs: predicted ${outcome.predictedS.toFixed(1)} s, at most ${outcome.boundS.toFixed(1)} s, took ${tookS.toFixed(1)} s, empty ${outcome.earlyS.toFixed(1)} s before its deadline`,
  );
  return outcome;
}

const after = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString();

async function over(test: TestSite, id: string): Promise<DrainAnswer> {
  for (const untilMs = Date.now() + 600_000; ; await new Promise((resolve) => setTimeout(resolve, 200))) {
    const { body } = await test.operator.insist<DrainAnswer>('GET', `/v1/drains/${id}`);
    if (['empty', 'incomplete', 'cancelled'].includes(body.state)) return body;
    if (Date.now() > untilMs) throw new Error(`${id} is ${body.state} after ten minutes: ${JSON.stringify(body)}`);
  }
}

/** What each of its migrations took, and what a model that has seen none would have said of all. */
async function measured({ site }: TestSite, drain: DrainAnswer): Promise<{ eachS: number[]; priorS: number }> {
  const ledger = openLedger(site.databaseUrl, 1);
  try {
    const rows = await ledger.measurement.findMany({
      where: { id: { in: drain.moves.map(({ migration }) => `${migration}/live`) } },
    });
    const operations = rows.flatMap(({ vmId, fromId, toId, memoryMiB, residentMiB, dirtyMiBPerS }) =>
      operationsOf('live', { from: fromId, to: toId, concurrency: 1, load: { vm: vmId, memoryMiB, residentMiB, dirtyMiBPerS } }),
    );
    return { eachS: rows.map(({ seconds }) => seconds), priorS: fitMigrationModel([]).predict(operations).mean };
  } finally {
    await ledger.$disconnect();
  }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

function report(outcomes: Outcome[], network: string): void {
  const counted = outcomes.filter(({ before }) => before >= learned);
  const mape = (list: Outcome[], of: (one: Outcome) => number) =>
    100 * mean(list.map((one) => Math.abs(of(one) / one.tookS - 1)));
  for (const strategy of ['sequential', 'parallel'] as const) {
    const list = counted.filter((one) => one.strategy === strategy);
    if (list.length === 0) continue;
    const prior = mape(list, ({ priorS }) => priorS);
    printLine(
      `drain.mape.live.${strategy}.${network}`,
      mape(list, ({ predictedS }) => predictedS),
      '%',
      prior,
      { drains: list.length },
    );
  }
  const held = counted.filter(({ tookS, boundS }) => tookS <= boundS).length;
  if (counted.length === 0)
    throw new Error(`there were fewer than ${learned} measurements before every drain: ask for more --runs`);
  printLine('drain.boundHeld', (100 * held) / counted.length, '%', 99, { drains: counted.length });
  const early = counted.map(({ earlyS }) => earlyS);
  printLine('drain.earlyS', median(early), 's', median(counted.map(({ earlyAtOnceS }) => earlyAtOnceS)), {
    late: early.filter((seconds) => seconds < 0).length,
    allowed: median(counted.map(({ predictedS }) => 0.25 * predictedS + 5)),
  });
  const of = (strategy: string) => counted.filter((one) => one.strategy === strategy && one.vms > 1);
  const perVm = (list: Outcome[]) => mean(list.map(({ tookS, vms }) => tookS / vms));
  if (of('parallel').length === 0 || of('sequential').length === 0) return;
  // Zhao and Figueiredo: side by side all is done sooner, and each is worse off.
  printLine('drain.parallel.perVmS', perVm(of('parallel')), 's', perVm(of('sequential')));
  printLine(
    'drain.parallel.eachS',
    mean(of('parallel').flatMap(({ eachS }) => eachS)),
    's',
    mean(of('sequential').flatMap(({ eachS }) => eachS)),
  );
  const bySize = (many: boolean) => of('sequential').filter(({ vms }) => vms > 2 === many);
  // One after the other, each takes as long however many there are.
  if (bySize(true).length > 0 && bySize(false).length > 0)
    printLine('drain.sequence.perVmS', perVm(bySize(true)), 's', perVm(bySize(false)), { vms: 'more than two, against two' });
}
