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
 * What history costs: the same questions to two ledgers of one server, that differ in what has ended alone. The calls alternate,
 * so that other work on the machine, warm caches and the code that has been compiled are the same to both.
 */

/** Until the code is compiled, each session has the catalog, and a kept statement its plan for all parameters. */
const warmUps = 10;
/** What has ended on the ledger that it is compared with: every page of a list is full there too. */
const fewEnded = 2000;

/** Processor time (ms) of two calls after one another. */
interface Pair {
  without: number;
  with: number;
}

export async function benchHistory(
  serverUrl: string,
  size: FilledLedger,
  { runs, deps }: { runs: number; deps: Omit<LedgerDeps, 'ledger' | 'clock'> },
): Promise<void> {
  const nowMs = Date.now();
  const few = { ...size, ended: Math.min(fewEnded, size.ended), events: Math.min(10 * fewEnded, size.events) };
  const sides = {
    without: await openSide(serverUrl, 'without', few, nowMs, deps),
    with: await openSide(serverUrl, 'with', size, nowMs, deps),
  };
  try {
    for (const name of Object.keys(sides.with.ask)) {
      for (let i = 0; i < warmUps; i += 1) for (const side of [sides.without, sides.with]) await side.ask[name]!();
      const pairs: Pair[] = [];
      // The order within a pair alternates too: the second of two calls finds the processor's caches as the first has left them.
      while (pairs.length < runs) {
        const withFirst = pairs.length % 2 === 1;
        const first = await costOf(withFirst ? sides.with : sides.without, name);
        const second = await costOf(withFirst ? sides.without : sides.with, name);
        pairs.push(withFirst ? { with: first, without: second } : { without: first, with: second });
      }
      const [before, after] = [median(pairs.map((pair) => pair.without)), median(pairs.map((pair) => pair.with))];
      const dearer = pairs.filter((pair) => pair.with > pair.without).length / pairs.length;
      logProgress(
        `history ${name.padEnd(20)} ${before.toFixed(2).padStart(9)} ms, with it ${after.toFixed(2).padStart(9)} (${((after / before - 1) * 100).toFixed(0)} %; dearer in ${(dearer * 100).toFixed(0)} % of ${runs} pairs)`,
      );
      printFigure(`scale.history.${name}`, after, 'ms', before, { ended: size.ended, runs, dearerShare: dearer });
    }
  } finally {
    for (const side of Object.values(sides)) await side.close();
  }
}

interface Side {
  ask: Record<string, () => Promise<unknown>>;
  pool: pg.Pool;
  close(): Promise<void>;
}

async function openSide(
  serverUrl: string,
  name: keyof Pair,
  size: FilledLedger,
  nowMs: number,
  deps: Omit<LedgerDeps, 'ledger' | 'clock'>,
): Promise<Side> {
  const database = `scale_history_${name}`;
  await query(serverUrl, `CREATE DATABASE ${database}`);
  const url = withDatabase(serverUrl, database);
  await applyMigrations(url);
  await query(serverUrl, `ALTER DATABASE ${database} SET max_parallel_workers_per_gather = 0`);
  const started = performance.now();
  await fillLedger(url, size, nowMs);
  logProgress(
    `history: ${size.ended} ended tasks, ${size.events} older events: filled in ${((performance.now() - started) / 1000).toFixed(1)} s`,
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
