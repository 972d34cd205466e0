import type { DrainOutline } from '../model/drain.ts';
import type { Ledger } from './client.ts';
import { StoredPlan } from './drains/outline.ts';
import { readEnded } from './ended-counts.ts';

/** How many rows are in a state. */
interface StateCount {
  state: string;
  rows: number;
}

/** One row for each key: the sum of its rows. */
function sumByKey<T>(rows: readonly T[], keyOf: (row: T) => string, add: (sum: T, row: T) => T): T[] {
  const sums = new Map<string, T>();
  for (const row of rows) {
    const key = keyOf(row);
    const sum = sums.get(key);
    sums.set(key, sum === undefined ? row : add(sum, row));
  }
  return [...sums.values()];
}

const addRows = <T extends { rows: number }>(sum: T, row: T): T => ({ ...sum, rows: sum.rows + row.rows });

const sumByState = (groups: readonly StateCount[]): StateCount[] =>
  sumByKey(
    groups.map(({ state, rows }) => ({ state, rows })),
    ({ state }) => state,
    addRows,
  );

export async function readTaskCounts(ledger: Ledger): Promise<StateCount[]> {
  const open = await ledger.$queryRaw<StateCount[]>`
    SELECT state::text, count(*)::int AS rows FROM "Task" WHERE state NOT IN ('succeeded', 'failed', 'cancelled') GROUP BY state`;
  return sumByState([...open, ...(await readEnded(ledger, 'tasks')).map(({ label, rows }) => ({ state: label[0]!, rows }))]);
}

export interface VmMetrics {
  /** Those that are paused by `paused.` and who paused them. */
  states: StateCount[];
  /** How they booted, warm or cold, and why cold: '' where there is no reason. */
  boots: { boot: string; why: string; rows: number }[];
}

/** VMs that there are and that there were. */
export async function readVmMetrics(ledger: Ledger): Promise<VmMetrics> {
  const open = await ledger.$queryRaw<(StateCount & { boot: string | null; why: string | null })[]>`
    SELECT CASE WHEN "pausedBy" IS NULL THEN state::text ELSE state::text || '.' || "pausedBy"::text END AS state,
      boot, "bootWhy" AS why, count(*)::int AS rows FROM "Vm" WHERE state <> 'removed' GROUP BY 1, 2, 3
    UNION ALL SELECT 'removed', boot, "bootWhy", count(*)::int FROM "Vm"
      WHERE state = 'removed' AND "endedAt" IS NULL GROUP BY 2, 3`;
  const ended = (await readEnded(ledger, 'vms')).map(({ label: [boot, why], rows }) => ({
    state: 'removed',
    boot: boot ?? null,
    why: why ?? null,
    rows,
  }));
  const groups = [...open, ...ended];
  const boots = groups.flatMap(({ boot, why, rows }) => (boot === null ? [] : [{ boot, why: why ?? '', rows }]));
  return {
    states: sumByState(groups),
    boots: sumByKey(boots, ({ boot, why }) => `${boot} ${why}`, addRows),
  };
}

export interface MigrationTotals {
  mode: string;
  outcome: string;
  migrations: number;
  seconds: number;
  downtimeS: number;
  bytes: number;
}

const addTotals = (sum: MigrationTotals, row: MigrationTotals): MigrationTotals => ({
  ...sum,
  migrations: sum.migrations + row.migrations,
  seconds: sum.seconds + row.seconds,
  downtimeS: sum.downtimeS + row.downtimeS,
  bytes: sum.bytes + row.bytes,
});

export interface MigrationMetrics {
  states: StateCount[];
  /** What their guests did after them; '' where it was not observed. */
  guests: StateCount[];
  /** Sums over those that have ended, by mode and outcome. */
  totals: MigrationTotals[];
}

/** Migrations that are under way, and all that have ended. */
export async function readMigrationMetrics(ledger: Ledger): Promise<MigrationMetrics> {
  const open = await ledger.$queryRaw<(StateCount & { guest: string | null })[]>`
    SELECT state::text, guest, count(*)::int AS rows FROM "Migration" WHERE "finishedAt" IS NULL GROUP BY 1, 2`;
  const ended = (await readEnded(ledger, 'migrations')).map(({ label: [mode, state, guest], ...sums }) => ({
    ...sums,
    mode: mode!,
    state: state!,
    guest: guest ?? null,
  }));
  const groups = [...open, ...ended];
  const totals = ended.map(({ mode, state, rows, seconds, downtimeS, bytes }) => ({
    mode,
    outcome: state,
    migrations: rows,
    seconds,
    downtimeS,
    bytes,
  }));
  return {
    states: sumByState(groups),
    guests: sumByState(groups.map(({ guest, rows }) => ({ state: guest ?? '', rows }))),
    totals: sumByKey(totals, ({ mode, outcome }) => `${mode} ${outcome}`, addTotals),
  };
}

export async function readHostCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.host.groupBy({ by: ['state'], where: { removedAt: null }, _count: { id: true } });
  return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
}

/** VMs whose end the hosts have not confirmed, and since when the oldest waits; null where there is none. */
export async function readFences(ledger: Ledger): Promise<{ rows: number; oldestAt: Date | null }> {
  const { _count, _min } = await ledger.fence.aggregate({ _count: { vmId: true }, _min: { createdAt: true } });
  return { rows: _count.vmId, oldestAt: _min.createdAt };
}

/** Hosts whose clocks were compared with the ledger's. */
export async function readClockOffsets(ledger: Ledger): Promise<{ host: string; seconds: number; off: boolean }[]> {
  const rows = await ledger.host.findMany({
    where: { clockOffsetMs: { not: null } },
    select: { id: true, clockOffsetMs: true, clockOff: true },
  });
  return rows.map(({ id, clockOffsetMs, clockOff }) => ({ host: id, seconds: (clockOffsetMs ?? 0) / 1000, off: clockOff }));
}

export async function readDrainCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.drain.groupBy({ by: ['state'], _count: { id: true } });
  return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
}

/** When the oldest queued task was accepted; null for an empty queue. */
export async function readOldestQueuedAt(ledger: Ledger): Promise<Date | null> {
  const oldest = await ledger.task.findFirst({
    where: { state: 'queued' },
    orderBy: { createdAt: 'asc' },
    select: { createdAt: true },
  });
  return oldest?.createdAt ?? null;
}

/** When the task ended that ended first of those that are kept; null where none has. */
export async function readFirstEnd(ledger: Ledger): Promise<Date | null> {
  const first = await ledger.task.findFirst({
    where: { finishedAt: { not: null } },
    orderBy: { finishedAt: 'asc' },
    select: { finishedAt: true },
  });
  return first?.finishedAt ?? null;
}

export interface PlannedDrain {
  host: string;
  deadline: Date;
  plan: DrainOutline;
}

/** Drains that are under way and have a plan, with the plan of their last step. */
export async function readDrainPlans(ledger: Ledger): Promise<PlannedDrain[]> {
  const rows = await ledger.drain.findMany({
    where: { state: { in: ['waiting', 'moving', 'paused'] } },
    select: { hostId: true, deadline: true, plan: true },
  });
  return rows.flatMap(({ hostId, deadline, plan }) =>
    plan === null ? [] : [{ host: hostId, deadline, plan: StoredPlan.parse(plan) }],
  );
}
