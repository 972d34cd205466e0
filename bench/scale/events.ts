import pg from 'pg';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, startPostgresServer, withDatabase } from '../../test/services/postgres-server.ts';
import { logProgress, median, printFigure } from '../figures.ts';

const clients = 50;
const secondsPerRun = 4;

/**
 * Commits a second of 50 clients that write one event each time, on a server that flushes to the disk, while one client
 * numbers the events as a reader does; against the same without events. And that as many were numbered as written.
 */
export async function benchEvents(runs: number): Promise<void> {
  const server = await startPostgresServer({ durable: true });
  try {
    await query(server.url, 'CREATE DATABASE events');
    const url = withDatabase(server.url, 'events');
    await applyMigrations(url);
    const pool = new pg.Pool({ connectionString: url, max: clients + 2 });
    pool.on('error', () => undefined);
    await pool.query(`CREATE TABLE plain (id text PRIMARY KEY, data jsonb NOT NULL)`);
    const rates = { events: [] as number[], plain: [] as number[] };
    let written = 0;
    for (let run = 0; run < runs; run += 1) {
      const events = await commits(
        pool,
        `e${run}`,
        `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ($1, 't', $1, 'o', now(), '{"a":1}')`,
        true,
      );
      const plain = await commits(pool, `p${run}`, `INSERT INTO plain (id, data) VALUES ($1, '{"a":1}')`, false);
      written += events;
      rates.events.push(events / secondsPerRun);
      rates.plain.push(plain / secondsPerRun);
      logProgress(
        `run ${run + 1}: ${rates.events.at(-1)!.toFixed(0)} commits/s with an event, ${rates.plain.at(-1)!.toFixed(0)} without`,
      );
    }
    while ((await pool.query<{ n: number }>('SELECT berth_number_events(10000) AS n')).rows[0]!.n > 0);
    const { rows } = await pool.query<{ count: number; last: number }>(
      'SELECT count(*)::int AS count, max(seq)::int AS last FROM "Event"',
    );
    if (rows[0]!.count !== written || rows[0]!.last !== written)
      throw new Error(
        `BUG: ${written} events were written, ${rows[0]!.count} are there, and the last has the number ${rows[0]!.last}`,
      );
    await pool.end();
    printFigure('scale.events.commits', median(rates.events), 'commits/s', median(rates.plain), { clients, runs });
  } finally {
    await server.stop();
  }
}

async function commits(pool: pg.Pool, name: string, insert: string, numbering: boolean): Promise<number> {
  const until = performance.now() + secondsPerRun * 1000;
  let count = 0;
  const client = async (): Promise<void> => {
    while (performance.now() < until) {
      count += 1;
      await pool.query(insert, [`${name}/${count}`]);
    }
  };
  const numberer = async (): Promise<void> => {
    while (performance.now() < until) await pool.query('SELECT berth_number_events(10000)');
  };
  await Promise.all([...Array.from({ length: clients }, client), ...(numbering ? [numberer()] : [])]);
  return count;
}
