import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { run } from '../../drivers/host/run-process.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { readConfig } from '../../model/config.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, startPostgresServer, withDatabase } from '../../test/services/postgres-server.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { placeBatches } from './batches.ts';
import { benchGrowth, benchHistory } from './compare-ledgers.ts';
import { benchEvents } from './events.ts';
import { type FilledLedger, fillLedger } from './fill-ledger.ts';
import { benchHeartbeats } from './heartbeats.ts';
import { benchKnee } from './knee/knee.ts';
import { type CallCost, measureCall, sessionPids } from './processor-time.ts';
import { questions } from './questions.ts';
import { countStatements, liveOneTask, statementsSent, taskRate } from './task-life.ts';
import { benchUpkeep } from './upkeep.ts';

const defaultModes = ['10x200', '100x2000', '1000x20000', '1000x100000'];
/** The events that precede an ended task's own, for each: 10^6 tasks come with 10^7 events. */
const olderEventsPerTask = 7;
/** Until the code is compiled, and each session has the catalog at hand. */
const warmUps = 8;
const plannerDeadlineMs = 10 * 60_000;
/** A call that takes longer than this in the first run is measured three times. */
const slowMs = 2000;
const runsOfSlow = 3;
/** Of a knee's ramp: to eight times the 5 tasks/s that are its limit. */
const mostSteps = 14;

/**
 * `npm run bench -- scale --modes HOSTSxVMS[+ENDED][@PROMISES],…`: the processor time (ms, of Node and PostgreSQL together) of
 * each question to a ledger of that size; one promise where none is said. The mode `events`: commits a second; `upkeep`: what a host
 * costs when nothing is asked; `history-MODE`: what the ended tasks of that mode cost, beside a ledger without most of them;
 * `growth-MODE:MODE`: the first mode beside the second, larger one; `knee-MODE`: a whole site of fake hosts under a growing load;
 * `heartbeats-HOSTSxVMS`: what the load that hosts report costs.
 */
export async function benchScale({ runs, modes }: BenchOptions): Promise<void> {
  countStatements();
  if (modes?.includes('events')) await benchEvents(runs ?? 3);
  if (modes?.includes('upkeep')) await benchUpkeep();
  const sizes = (modes ?? defaultModes).filter((mode) => !['events', 'upkeep'].includes(mode));
  for (const mode of sizes.filter((one) => one.startsWith('knee-')))
    await benchKnee(parseMode(mode.slice(5)), mode, runs ?? mostSteps);
  for (const mode of sizes.filter((one) => one.startsWith('heartbeats-'))) await benchHeartbeats(mode, runs);
  const ofLedgers = sizes.filter((mode) => !/^(?:knee|heartbeats)-/.test(mode));
  if (ofLedgers.length === 0) return;
  const server = await startPostgresServer();
  try {
    for (const mode of ofLedgers) await benchLedger(server.url, mode, runs);
  } finally {
    await server.stop();
  }
}

/** A ledger without its site, or two of them. */
async function benchLedger(serverUrl: string, mode: string, runs: number | null): Promise<void> {
  const [, kind, of] = /^(history|growth)-(.*)$/.exec(mode) ?? [];
  const pairs = Math.max(3, runs ?? 21);
  if (kind === 'history') return benchHistory(serverUrl, parseMode(of!), pairs, configuration());
  if (kind !== 'growth') return benchMode(serverUrl, mode, Math.max(3, runs ?? 7));
  const [base, other] = of!.split(':').map(parseMode);
  if (base === undefined || other === undefined) throw new Error(`--modes: found ${mode}; expected growth-MODE:MODE`);
  return benchGrowth(serverUrl, [base, other], pairs, configuration());
}

export function parseMode(mode: string): FilledLedger {
  const found = /^(\d+)x(\d+)(?:\+(\d+))?(?:@(\d+))?$/.exec(mode);
  if (found === null) throw new Error(`--modes: found ${mode}; expected HOSTSxVMS[+ENDED][@PROMISES], as 1000x20000+100000@1`);
  const [hosts, vms, ended, promises] = found.slice(1).map((part) => (part === undefined ? null : Number(part)));
  return {
    hosts: hosts!,
    vms: vms!,
    ended: ended ?? 0,
    promises: promises ?? 1,
    events: olderEventsPerTask * (ended ?? 0),
  };
}

async function benchMode(serverUrl: string, mode: string, runs: number): Promise<void> {
  const size = parseMode(mode);
  const name = `scale_${mode.replaceAll(/[^0-9a-z]/g, '_')}`;
  await query(serverUrl, `CREATE DATABASE ${name}`);
  const url = withDatabase(serverUrl, name);
  await applyMigrations(url);
  // Processor time is compared: what parallel workers take would be missed.
  await query(serverUrl, `ALTER DATABASE ${name} SET max_parallel_workers_per_gather = 0`);
  const nowMs = Date.now();
  const started = performance.now();
  await fillLedger(url, size, nowMs);
  const filledS = (performance.now() - started) / 1000;
  const gigabytes = await sizeOf(url, name);
  logProgress(`${mode}: filled in ${filledS.toFixed(1)} s, ${gigabytes.toFixed(1)} GB`);
  printFigure(`scale.${mode}.fill`, filledS, 's', null, { gigabytes });
  const ledger = openLedger(url, 2);
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  try {
    await askAll(ledger, pool, { mode, nowMs, runs });
    await measurePlanner(url, { mode, nowMs });
    await placeBatches({ ledger, ...configuration(), clock: () => nowMs }, pool, mode);
    await liveTasks(url, pool, { mode, nowMs, runs });
  } finally {
    await ledger.$disconnect();
    await pool.end();
    await query(serverUrl, `DROP DATABASE ${name} WITH (FORCE)`);
  }
}

async function sizeOf(url: string, name: string): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ bytes: string }>('SELECT pg_database_size($1) AS bytes', [name]);
    return Number(rows[0]!.bytes) / 1e9;
  } finally {
    await client.end();
  }
}

const environment = {
  BERTH_SIGNING_KEY: 'a key of the benchmark alone, 32 or more',
  BERTH_REPOSITORY_URL: 'http://repository.test:8080/',
};
const configuration = () => readConfig(['signing', 'control'], environment);

const plannerLimitMiB = 1024;

/** The most memory of a process that plans this ledger. Its steps are the planner's own, and what they write stays. */
async function measurePlanner(url: string, { mode, nowMs }: { mode: string; nowMs: number }): Promise<void> {
  const script = fileURLToPath(new URL('./planner-memory.ts', import.meta.url));
  const argv = [process.execPath, script, url, String(nowMs)] as const;
  const text = await run(argv, { deadlineMs: plannerDeadlineMs, env: { PATH: process.env.PATH ?? '', ...environment } });
  const mib = Number(text.trim());
  logProgress(`${mode} the planner's memory  ${mib.toFixed(0)} MiB`);
  printFigure(`scale.${mode}.planner.memory`, mib, 'MiB', null, { limit: plannerLimitMiB });
}

/** The life of a task on the ledger: its statements, its processor time, and how many the ledger takes at once. */
async function liveTasks(url: string, pool: pg.Pool, { mode, nowMs, runs }: { mode: string; nowMs: number; runs: number }) {
  const ledger = openLedger(url, 16);
  const deps = { ledger, ...configuration(), clock: () => nowMs };
  try {
    // With a promise the planner places, which is another process.
    if ((await ledger.lease.count({ where: { startAt: { not: null }, endedAt: null } })) > 0) return;
    await liveOneTask(deps, 'first');
    const before = statementsSent();
    await liveOneTask(deps, 'counted');
    const after = statementsSent();
    const statements = after.statements - before.statements;
    printFigure(`scale.${mode}.life.statements`, statements, 'statements', null, { frames: after.frames - before.frames });
    const times: CallCost[] = [];
    while (times.length < runs)
      times.push(await measureCall(await sessionPids(pool), () => liveOneTask(deps, `life-${times.length}`)));
    const cost = median(times.map(({ node, postgres }) => node + postgres));
    const rates: number[] = [];
    while (rates.length < 3) rates.push(await taskRate(deps, rates.length));
    logProgress(
      `${mode} a task's life        ${cost.toFixed(1)} ms, ${statements} statements; ${median(rates).toFixed(1)} tasks/s by 16 clients`,
    );
    printFigure(`scale.${mode}.life`, cost, 'ms', null);
    printFigure(`scale.${mode}.life.rate`, median(rates), 'tasks/s', null);
  } finally {
    await ledger.$disconnect();
  }
}

async function askAll(ledger: Ledger, pool: pg.Pool, { mode, nowMs, runs }: { mode: string; nowMs: number; runs: number }) {
  const deps = { ledger, ...configuration(), clock: () => nowMs };
  for (const [name, ask] of Object.entries(questions(deps, nowMs))) {
    const measured = await measureQuestion(pool, ask, runs);
    if ('failed' in measured) {
      logProgress(`${mode} ${name}: failed: ${measured.failed}`);
      printFigure(`scale.${mode}.${name}`, Number.NaN, 'ms', null, measured);
      continue;
    }
    const of = (part: keyof CallCost) => Number(median(measured.times.map((time) => time[part])).toPrecision(4));
    const total = median(measured.times.map(({ node, postgres }) => node + postgres));
    logProgress(
      `${mode} ${name.padEnd(20)} ${total.toFixed(1).padStart(9)} ms (node ${of('node')}, postgres ${of('postgres')}, wall ${of('wall')}, loop ${of('loop')})`,
    );
    printFigure(`scale.${mode}.${name}`, total, 'ms', null, {
      node: of('node'),
      postgres: of('postgres'),
      wall: of('wall'),
      loop: of('loop'),
    });
  }
}

/** A call that a limit of the ledger refuses is a finding too. */
async function measureQuestion(
  pool: pg.Pool,
  ask: () => Promise<unknown>,
  runs: number,
): Promise<{ times: CallCost[] } | { failed: string }> {
  const times: CallCost[] = [];
  try {
    const started = performance.now();
    await ask();
    const slow = performance.now() - started > slowMs;
    for (let i = 1; i < (slow ? 1 : warmUps); i += 1) await ask();
    while (times.length < (slow ? runsOfSlow : runs)) times.push(await measureCall(await sessionPids(pool), ask));
    return { times };
  } catch (error) {
    return { failed: error instanceof Error ? error.message.trim().split('\n').at(-1)! : String(error) };
  }
}
