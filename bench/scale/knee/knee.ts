import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { logProgress, percentile, printFigure } from '../../figures.ts';
import type { FilledLedger } from '../fill-ledger.ts';
import { processorMsByProgram } from '../processor-time.ts';
import { LoadClients, type OfferedLoad, type RequestKind } from './load-clients.ts';
import { type LoadSite, openLoadSite } from './load-site.ts';

/**
 * `npm run bench -- scale --modes knee-HOSTSxVMS[@PROMISES]`: a filled ledger whose hosts are fakes in a few processes, under the real
 * workers, API, PostgreSQL and Temporal. Clients submit tasks in an open loop, a quarter more a second at each step of a minute, until
 * tasks pile up; the knee is how many ended a second at the last step before that. Then the times of the API at 0.8 of it.
 */

const stepS = 60;
const idleS = 30;
const firstRate = 2;
const stepFactor = 1.25;
const shareOfKnee = 0.8;
/** By Little's law, tasks that are open for each a second that comes are the seconds that one takes: some four of them. */
const mostOpenS = 15;
const drainDeadlineMs = 5 * 60_000;
const limits = { tasksPerSecond: 5, p99Ms: 200 };

/** One step of the ramp. */
interface Step {
  offered: number;
  accepted: number;
  /** A second. */
  ended: number;
  /** At its end. */
  open: number;
  apiMs: Percentiles;
  acceptMs: Percentiles;
  /** By the kind of request. */
  kindsMs: Record<RequestKind, Percentiles>;
  /** From acceptance, of the tasks of this step that have come so far. */
  placedMs: Percentiles;
  endedMs: Percentiles;
  failed: number;
  /** Processors that each program kept busy. */
  processors: Record<string, number>;
}

interface Percentiles {
  p50: number;
  p99: number;
}

export async function benchKnee(size: FilledLedger, mode: string, steps: number): Promise<void> {
  const site = await openLoadSite(size);
  try {
    const clients = new LoadClients(site.target);
    const idle = await processorsDuring(() => delay(idleS * 1000));
    logProgress(`idle: ${describeProcessors(idle)}`);
    printFigure(`scale.${mode}.idle`, sumOf(idle), 'processors', null, { processors: idle });
    // The first requests compile what answers them.
    await runStep(site, clients, firstRate);
    const sustained: Step[] = [];
    let bound = 'not reached';
    for (let n = 0, rate = firstRate; n < steps; n += 1, rate *= stepFactor) {
      const step = await runStep(site, clients, rate);
      printStep(mode, step);
      if (step.failed > 0 || step.open > mostOpenS * rate) {
        bound = boundOf(step);
        break;
      }
      sustained.push(step);
    }
    const knee = sustained.at(-1)?.ended ?? 0;
    logProgress(`knee: ${knee.toFixed(2)} tasks/s; what bounds it: ${bound}`);
    printFigure(`scale.${mode}.knee`, knee, 'tasks/s', null, { leastTasksPerSecond: limits.tasksPerSecond, bound });
    if (knee === 0) return;
    await drained(site.pool);
    const below = await runStep(site, clients, shareOfKnee * knee);
    printStep(mode, below);
    printFigure(`scale.${mode}.api.p99`, below.apiMs.p99, 'ms', null, {
      at: below.offered,
      limitMs: limits.p99Ms,
      p50: below.apiMs.p50,
    });
  } finally {
    await site.stop();
  }
}

async function runStep({ pool }: LoadSite, clients: LoadClients, rate: number): Promise<Step> {
  const { rows } = await pool.query<{ now: Date }>('SELECT clock_timestamp() AS now');
  const from = rows[0]!.now;
  let load: OfferedLoad | undefined;
  const processors = await processorsDuring(async () => {
    load = await clients.offer(rate, stepS);
  });
  const { times, failed } = load!;
  const life = await lifeOf(pool, from);
  return {
    offered: rate,
    accepted: times.task.length,
    ended: life.ended,
    open: life.open,
    apiMs: percentiles(Object.values(times).flat()),
    acceptMs: percentiles(times.task),
    kindsMs: Object.fromEntries(Object.entries(times).map(([kind, each]) => [kind, percentiles(each)])) as Step['kindsMs'],
    placedMs: percentiles(life.placedMs),
    endedMs: percentiles(life.endedMs),
    failed: failed.length,
    processors,
  };
}

/** Tasks of the clients that are to run at once. */
const ofLoad = `"ownerId" LIKE 'owner_batch_%' AND "leaseId" IN (SELECT id FROM "Lease" WHERE "startAt" IS NULL)`;

/** Ended since `from`, a second; open now; and of those that were accepted since then, how long each took. */
async function lifeOf(pool: pg.Pool, from: Date) {
  const counts = await pool.query<{ ended: number; open: number; seconds: number }>(
    `SELECT count(*) FILTER (WHERE "finishedAt" >= $1)::int AS ended, count(*) FILTER (WHERE "finishedAt" IS NULL)::int AS open,
       extract(epoch FROM clock_timestamp() - $1)::float8 AS seconds
     FROM "Task" WHERE ${ofLoad}`,
    [from],
  );
  const { rows } = await pool.query<{ placed: number | null; ended: number | null }>(
    `SELECT extract(epoch FROM "placedAt" - "createdAt")::float8 * 1000 AS placed, extract(epoch FROM "finishedAt" - "createdAt")::float8 * 1000 AS ended
     FROM "Task" WHERE "createdAt" >= $1 AND ${ofLoad}`,
    [from],
  );
  const { ended, open, seconds } = counts.rows[0]!;
  return {
    ended: ended / seconds,
    open,
    placedMs: rows.flatMap(({ placed }) => placed ?? []),
    endedMs: rows.flatMap((row) => row.ended ?? []),
  };
}

async function drained(pool: pg.Pool): Promise<void> {
  const untilMs = Date.now() + drainDeadlineMs;
  while ((await lifeOf(pool, new Date())).open > 0) {
    if (Date.now() > untilMs) throw new Error(`tasks are still open ${drainDeadlineMs / 1000} s after the last step`);
    await delay(1000);
  }
}

function percentiles(values: readonly number[]): Percentiles {
  if (values.length === 0) return { p50: Number.NaN, p99: Number.NaN };
  const sorted = values.toSorted((a, b) => a - b);
  return { p50: Math.round(percentile(sorted, 0.5)), p99: Math.round(percentile(sorted, 0.99)) };
}

async function processorsDuring(act: () => Promise<unknown>): Promise<Record<string, number>> {
  const [before, started] = [await processorMsByProgram(), performance.now()];
  await act();
  const [after, elapsedMs] = [await processorMsByProgram(), performance.now() - started];
  const shares = [...after].map(([program, ms]): [string, number] => [program, (ms - (before.get(program) ?? 0)) / elapsedMs]);
  return Object.fromEntries(
    shares
      .filter(([, share]) => share >= 0.005)
      .toSorted(([, a], [, b]) => b - a)
      .map(([program, share]) => [program, Number(share.toFixed(2))]),
  );
}

const sumOf = (processors: Record<string, number>): number => Object.values(processors).reduce((sum, share) => sum + share, 0);

const describeProcessors = (processors: Record<string, number>): string =>
  Object.entries(processors)
    .map(([program, share]) => `${program} ${share.toFixed(2)}`)
    .join(', ');

/** A process whose one thread is busy, or the machine's processors; else what waits is not seen here. */
function boundOf({ processors }: Step): string {
  const [most, share] = Object.entries(processors)[0] ?? ['nothing', 0];
  const all = availableParallelism();
  const used = sumOf(processors);
  if (used >= 0.9 * all) return `the machine's ${all} processors, of which ${most} takes ${share.toFixed(2)}`;
  if (share >= 0.9) return `${most}, which keeps a processor busy`;
  return `no processor: ${used.toFixed(2)} of ${all} are busy`;
}

function printStep(mode: string, step: Step): void {
  const { offered, accepted, ended, open, apiMs, acceptMs, kindsMs, placedMs, endedMs, failed, processors } = step;
  logProgress(
    `${offered.toFixed(2)} tasks/s offered: ${ended.toFixed(2)} ended, ${open} open, API p99 ${apiMs.p99} ms (accept ${acceptMs.p99}), placed p50 ${placedMs.p50} ms, ended p50 ${endedMs.p50} ms, ${failed} failed; ${describeProcessors(processors)}`,
  );
  printFigure(`scale.${mode}.step`, ended, 'tasks/s', offered, {
    accepted,
    open,
    failed,
    apiMs,
    kindsMs,
    placedMs,
    endedMs,
    processors,
  });
}
