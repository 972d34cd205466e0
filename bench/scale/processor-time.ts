import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type pg from 'pg';

/**
 * Processor time (ms) of one call, of this process and of the server's sessions for it; the time that it took; and the longest
 * time (ms) in which nothing else ran on this process's event loop.
 */
export interface CallCost {
  node: number;
  postgres: number;
  wall: number;
  loop: number;
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

/** Nanoseconds that the processes of sessions have run. */
export async function sessionsNs(pids: readonly number[]): Promise<number> {
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

/** A timer at this interval is late by what held up the loop. */
const loopResolutionMs = 5;

export async function measureCall(pids: readonly number[], call: () => Promise<unknown>): Promise<CallCost> {
  const delays = monitorEventLoopDelay({ resolution: loopResolutionMs });
  const before = await sessionsNs(pids);
  delays.enable();
  const [cpu, started] = [process.cpuUsage(), performance.now()];
  await call();
  const wall = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  delays.disable();
  const loop = Math.max(0, delays.max / 1e6 - loopResolutionMs);
  return { node: (user + system) / 1000, postgres: ((await sessionsNs(pids)) - before) / 1e6, wall, loop };
}

/** Of the kernel's accounting; the same on all of Linux' platforms. */
const msPerTick = 10;

/**
 * Processor time (ms) so far of this process and all that it has started, ended ones included where their parents have awaited
 * them, by program: `postgres`, `temporal`, and for Node its script, such as `api.ts`.
 */
export async function processorMsByProgram(): Promise<Map<string, number>> {
  const sums = new Map<string, number>();
  for (const { program, ticks } of await processTree(process.pid))
    sums.set(program, (sums.get(program) ?? 0) + ticks * msPerTick);
  return sums;
}

interface ProcessTimes {
  program: string;
  parent: number;
  ticks: number;
}

/** /proc/PID/stat: `PID (program) state parent …`, the 14th to 17th field are its own times and those of its ended children. */
async function processTree(root: number): Promise<ProcessTimes[]> {
  const pids = (await readdir('/proc')).map(Number).filter((pid) => pid > 0);
  const all = new Map<number, ProcessTimes>();
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
    const found = stat === null ? null : /^\d+ \((.*)\) (.*)$/s.exec(stat.trim());
    if (found === null) continue;
    const fields = found[2]!.split(' ');
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
    all.set(pid, { program: await programOf(pid, found[1]!), parent: Number(fields[1]), ticks });
  }
  const isBelow = (pid: number): boolean => pid === root || (all.has(pid) && isBelow(all.get(pid)!.parent));
  return [...all].filter(([pid]) => isBelow(pid)).map(([, times]) => times);
}

/** A thread may have named its process, as Node's does: then its command line says which script it executes. */
async function programOf(pid: number, name: string): Promise<string> {
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  const script = words.slice(1).find((word) => /\.[cm]?[jt]s$/.test(word));
  return script === undefined ? name : basename(script);
}
