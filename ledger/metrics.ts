import type { DrainOutline } from '../model/drain.ts';
import type { Ledger } from './client.ts';
import { StoredPlan } from './drains/outline.ts';

/** How many rows are in a state. */
interface StateCount {
  state: string;
  rows: number;
}

export async function readTaskCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.task.groupBy({ by: ['state'], _count: { id: true } });
  return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
}

/** VMs by state; those that are paused by `paused.` and who paused them. */
export async function readVmCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.vm.groupBy({ by: ['state', 'pausedBy'], _count: { id: true } });
  return groups.map(({ state, pausedBy, _count }) => ({
    state: pausedBy === null ? state : `${state}.${pausedBy}`,
    rows: _count.id,
  }));
}

export async function readMigrationCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.migration.groupBy({ by: ['state'], _count: { id: true } });
  return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
}

/** Migrations by what their guest did after them; '' where it was not observed. */
export async function readMigratedGuestCounts(ledger: Ledger): Promise<StateCount[]> {
  const groups = await ledger.migration.groupBy({ by: ['guest'], _count: { id: true } });
  return groups.map(({ guest, _count }) => ({ state: guest ?? '', rows: _count.id }));
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
  const groups = await ledger.vm.groupBy({ by: ['boot', 'bootWhy'], where: { boot: { not: null } }, _count: { id: true } });
  return groups.map(({ boot, bootWhy, _count }) => ({ boot: boot ?? '', why: bootWhy ?? '', rows: _count.id }));
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
  return ledger.$queryRaw<MigrationTotals[]>`
    SELECT mode, state::text AS outcome, count(*)::int AS migrations,
      COALESCE(sum(extract(epoch FROM "finishedAt" - COALESCE("startedAt", "createdAt"))), 0)::float8 AS seconds,
      COALESCE(sum("downtimeMs"), 0)::float8 / 1000 AS "downtimeS", COALESCE(sum(bytes), 0)::float8 AS bytes
    FROM "Migration" WHERE state IN ('succeeded', 'rolledBack') GROUP BY mode, state`;
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
