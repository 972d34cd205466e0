import type { DrainOutline } from '../model/drain.ts';
import type { Ledger } from './client.ts';
import { StoredPlan } from './drains/outline.ts';
import { readEnded } from './ended-counts.ts';

/** How many rows are in a state. */
interface StateCount {
  state: string;
  rows: number;
}

/** Adds up the rows of each state. */
function sumByState(groups: readonly StateCount[]): StateCount[] {
  const sums = new Map<string, number>();
  for (const { state, rows } of groups) sums.set(state, (sums.get(state) ?? 0) + rows);
  return [...sums].map(([state, rows]) => ({ state, rows }));
}

export async function readTaskCounts(ledger: Ledger): Promise<StateCount[]> {
  const open = await ledger.$queryRaw<StateCount[]>`
    SELECT state::text, count(*)::int AS rows FROM "Task" WHERE state NOT IN ('succeeded', 'failed', 'cancelled') GROUP BY state`;
  return sumByState([...open, ...(await readEnded(ledger, 'tasks')).map(({ label, rows }) => ({ state: label[0]!, rows }))]);
}

/** VMs by state; those that are paused by `paused.` and who paused them. */
export async function readVmCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.$queryRaw<(StateCount & { pausedBy: string | null })[]>`
    SELECT state::text, "pausedBy"::text, count(*)::int AS rows FROM "Vm" WHERE state <> 'removed' GROUP BY 1, 2
    UNION ALL SELECT 'removed', NULL, count(*)::int FROM "Vm" WHERE state = 'removed' AND "endedAt" IS NULL`;
  const removed = (await readEnded(ledger, 'vms')).map(({ rows }) => ({ state: 'removed', rows }));
  const present = groups.map(({ state, pausedBy, rows }) => ({
    state: pausedBy === null ? state : `${state}.${pausedBy}`,
    rows,
  }));
  return sumByState([...present, ...removed]).filter(({ rows }) => rows > 0);
}

async function openMigrations(ledger: Ledger): Promise<(StateCount & { guest: string | null })[]> {
  return ledger.$queryRaw`
    SELECT state::text, guest, count(*)::int AS rows FROM "Migration" WHERE "finishedAt" IS NULL GROUP BY 1, 2`;
}

export async function readMigrationCounts(ledger: Ledger): Promise<StateCount[]> {
  const ended = await readEnded(ledger, 'migrations');
  return sumByState([...(await openMigrations(ledger)), ...ended.map(({ label, rows }) => ({ state: label[1]!, rows }))]);
}

/** Migrations by what their guest did after them; '' where it was not observed. */
export async function readMigratedGuestCounts(ledger: Ledger): Promise<StateCount[]> {
  const open = (await openMigrations(ledger)).map(({ guest, rows }) => ({ state: guest ?? '', rows }));
  const ended = (await readEnded(ledger, 'migrations')).map(({ label, rows }) => ({ state: label[2] ?? '', rows }));
  return sumByState([...open, ...ended]);
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

/** VMs by how they booted, warm or cold, and why cold. */
export async function readBootCounts(ledger: Ledger): Promise<{ boot: string; why: string; rows: number }[]> {
  const present = await ledger.$queryRaw<{ boot: string; why: string | null; rows: number }[]>`
    SELECT boot, "bootWhy" AS why, count(*)::int AS rows FROM "Vm" WHERE boot IS NOT NULL AND state <> 'removed' GROUP BY 1, 2
    UNION ALL SELECT boot, "bootWhy", count(*)::int FROM "Vm"
      WHERE boot IS NOT NULL AND state = 'removed' AND "endedAt" IS NULL GROUP BY 1, 2`;
  const ended = (await readEnded(ledger, 'vms')).flatMap(({ label: [boot, why], rows }) =>
    boot == null ? [] : [{ boot, why: why ?? null, rows }],
  );
  const sums = new Map<string, { boot: string; why: string; rows: number }>();
  for (const { boot, why, rows } of [...present, ...ended]) {
    const sum = sums.get(`${boot} ${why}`) ?? { boot, why: why ?? '', rows: 0 };
    sums.set(`${boot} ${why}`, { ...sum, rows: sum.rows + rows });
  }
  return [...sums.values()];
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

export interface MigrationTotals {
  mode: string;
  outcome: string;
  migrations: number;
  seconds: number;
  downtimeS: number;
  bytes: number;
}

/** Sums over all migrations that have ended, by mode and outcome. */
export async function readMigrationTotals(ledger: Ledger): Promise<MigrationTotals[]> {
  const totals = new Map<string, MigrationTotals>();
  for (const { label, rows, seconds, downtimeS, bytes } of await readEnded(ledger, 'migrations')) {
    const [mode, outcome] = [label[0]!, label[1]!];
    const sum = totals.get(`${mode} ${outcome}`) ?? { mode, outcome, migrations: 0, seconds: 0, downtimeS: 0, bytes: 0 };
    totals.set(`${mode} ${outcome}`, {
      ...sum,
      migrations: sum.migrations + rows,
      seconds: sum.seconds + seconds,
      downtimeS: sum.downtimeS + downtimeS,
      bytes: sum.bytes + bytes,
    });
  }
  return [...totals.values()];
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
