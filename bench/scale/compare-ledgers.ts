import pg from 'pg';
import { openLedger } from '../../ledger/client.ts';
import type { LedgerDeps } from '../../ledger/transaction.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, withDatabase } from '../../test/services/postgres-server.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import { type FilledLedger, fillLedger } from './fill-ledger.ts';
import { measureCall, sessionPids } from './processor-time.ts';
import { questions } from './questions.ts';

/**
 * The same questions to two ledgers of one server. The calls alternate, so that other work on the machine, warm caches and the code
 * that has been compiled are the same to both.
 */

/** Until the code is compiled, each session has the catalog, and a kept statement its plan for all parameters. */
const warmUps = 10;
/** What has ended on the ledger without history: every page of a list is full there too. */
const fewEnded = 2000;
/** A pair of calls that takes longer than this in the first run is measured as often as a third of the others. */
const slowMs = 4000;

/** Processor time (ms) of two calls after one another. */
interface Pair {
  base: number;
  other: number;
}

interface Comparison {
  /** Of the figures: `scale.NAME.QUESTION`. */
  name: string;
  base: FilledLedger;
  other: FilledLedger;
  runs: number;
  /** Goes with each figure. */
  detail: (ratio: number) => Record<string, unknown>;
}

type Deps = Omit<LedgerDeps, 'ledger' | 'clock'>;

/** What history costs: the ledgers differ in what has ended alone. */
export const benchHistory = (serverUrl: string, size: FilledLedger, runs: number, deps: Deps): Promise<void> =>
  compare(serverUrl, deps, {
    name: 'history',
    base: { ...size, ended: Math.min(fewEnded, size.ended), events: Math.min(10 * fewEnded, size.events) },
    other: size,
    runs,
    detail: () => ({ ended: size.ended, limitRatio: 1.1 }),
  });

/** What a question costs more on a larger site. `exponent`: 0 where it is the same, 1 where it grows as the VMs do. */
export const benchGrowth = (
  serverUrl: string,
  [base, other]: [FilledLedger, FilledLedger],
  runs: number,
  deps: Deps,
): Promise<void> =>
  compare(serverUrl, deps, {
    name: 'growth',
    base,
    other,
    runs,
    detail: (ratio) => ({
      from: `${base.hosts}x${base.vms}`,
      to: `${other.hosts}x${other.vms}`,
      exponent: Number((Math.log(ratio) / Math.log(other.vms / base.vms)).toFixed(3)),
      limitRatio: 1.5,
    }),
  });

async function compare(serverUrl: string, deps: Deps, { name, base, other, runs, detail }: Comparison): Promise<void> {
  const nowMs = Date.now();
  const sides = {
    base: await openSide(serverUrl, `${name}_base`, base, nowMs, deps),
    other: await openSide(serverUrl, `${name}_other`, other, nowMs, deps),
  };
  try {
    for (const question of Object.keys(sides.other.ask)) {
      const pairs = await measurePairs(sides, question, runs);
      const [before, after] = [median(pairs.map((pair) => pair.base)), median(pairs.map((pair) => pair.other))];
      const dearer = pairs.filter((pair) => pair.other > pair.base).length / pairs.length;
      logProgress(
        `${name} ${question.padEnd(20)} ${before.toFixed(2).padStart(9)} ms, then ${after.toFixed(2).padStart(9)} (${((after / before - 1) * 100).toFixed(0)} %; dearer in ${(dearer * 100).toFixed(0)} % of ${pairs.length} pairs)`,
      );
      printFigure(`scale.${name}.${question}`, after, 'ms', before, {
        runs: pairs.length,
        dearerShare: dearer,
        ...detail(after / before),
      });
    }
  } finally {
    for (const side of Object.values(sides)) await side.close();
  }
}

async function measurePairs(sides: Record<keyof Pair, Side>, question: string, runs: number): Promise<Pair[]> {
  const askBoth = async () => {
    for (const side of [sides.base, sides.other]) await side.ask[question]!();
  };
  const started = performance.now();
  await askBoth();
  const slow = performance.now() - started > slowMs;
  for (let i = 1; i < (slow ? 2 : warmUps); i += 1) await askBoth();
  const pairs: Pair[] = [];
  // The order within a pair alternates too: the second of two calls finds the processor's caches as the first has left them.
  while (pairs.length < (slow ? Math.ceil(runs / 3) : runs)) {
    const otherFirst = pairs.length % 2 === 1;
    const first = await costOf(otherFirst ? sides.other : sides.base, question);
    const second = await costOf(otherFirst ? sides.base : sides.other, question);
    pairs.push(otherFirst ? { other: first, base: second } : { base: first, other: second });
  }
  return pairs;
}

interface Side {
  ask: Record<string, () => Promise<unknown>>;
  pool: pg.Pool;
  close(): Promise<void>;
}

async function openSide(serverUrl: string, name: string, size: FilledLedger, nowMs: number, deps: Deps): Promise<Side> {
  const database = `scale_${name}`;
  await query(serverUrl, `CREATE DATABASE ${database}`);
  const url = withDatabase(serverUrl, database);
  await applyMigrations(url);
  await query(serverUrl, `ALTER DATABASE ${database} SET max_parallel_workers_per_gather = 0`);
  const started = performance.now();
  await fillLedger(url, size, nowMs);
  logProgress(
    `${size.hosts} hosts, ${size.vms} VMs, ${size.ended} ended tasks, ${size.events} older events: filled in ${((performance.now() - started) / 1000).toFixed(1)} s`,
  );
  const ledger = openLedger(url, 2);
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  pool.on('error', () => undefined);
  return {
    ask: questions({ ledger, ...deps, clock: () => nowMs }, nowMs),
    pool,
    async close() {
      await ledger.$disconnect();
      await pool.end();
      await query(serverUrl, `DROP DATABASE ${database} WITH (FORCE)`);
    },
  };
}

async function costOf({ ask, pool }: Side, name: string): Promise<number> {
  const { node, postgres } = await measureCall(await sessionPids(pool), ask[name]!);
  return node + postgres;
}
