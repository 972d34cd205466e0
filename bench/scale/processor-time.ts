import { readFile } from 'node:fs/promises';
import type pg from 'pg';

/** Processor time (ms) of one call, of this process and of the server's sessions for it; and the time that it took. */
export interface CallCost {
  node: number;
  postgres: number;
  wall: number;
}

/** Nanoseconds that a process has run; 0 once it has ended. */
async function runtimeNs(pid: number): Promise<number> {
  try {
    return Number((await readFile(`/proc/${pid}/schedstat`, 'utf8')).split(' ')[0]);
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')) return 0;
    throw error;
  }
}

async function sessionsNs(pids: readonly number[]): Promise<number> {
  const each = await Promise.all(pids.map(runtimeNs));
  return each.reduce((sum, ns) => sum + ns, 0);
}

/** The sessions of this database's clients: PostgreSQL has a process for each, on this machine. */
export async function sessionPids(pool: pg.Pool): Promise<number[]> {
  const { rows } = await pool.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`,
  );
  return rows.map(({ pid }) => pid);
}

export async function measureCall(pids: readonly number[], call: () => Promise<unknown>): Promise<CallCost> {
  const [before, cpu, started] = [await sessionsNs(pids), process.cpuUsage(), performance.now()];
  await call();
  const wall = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  return { node: (user + system) / 1000, postgres: ((await sessionsNs(pids)) - before) / 1e6, wall };
}
