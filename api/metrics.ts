import type { Request, RequestHandler, Response } from 'express';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Ledger } from '../ledger/client.ts';
import { type DrainOutline, drainStates } from '../model/drain.ts';
import type { Logger } from '../model/log.ts';
import { migratedGuests, migrationModes, migrationStates } from '../model/migration.ts';
import { hostStates, taskStates } from '../model/states.ts';

/** Says which route a request took: the path as declared, not as sent, so that series stay few. */
const routes = new WeakMap<Request, string>();

export function labelRoute(path: string): RequestHandler {
  return (req, _res, next) => {
    routes.set(req, path);
    next();
  };
}

export interface Metrics {
  registry: Registry;
  observe: RequestHandler;
}

/** A gauge by state that is read from the ledger when it is asked for; states without rows are 0. */
function stateGauge(
  registry: Registry,
  about: { name: string; help: string; states: readonly string[] },
  read: () => Promise<{ state: string; rows: number }[]>,
): void {
  new Gauge({
    name: about.name,
    help: about.help,
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      const rows = await read();
      for (const state of about.states) this.set({ state }, rows.find((row) => row.state === state)?.rows ?? 0);
    },
  });
}

function ledgerGauges(registry: Registry, ledger: Ledger, clock: () => number): void {
  stateGauge(registry, { name: 'berth_tasks', help: 'Tasks by state', states: taskStates }, async () => {
    const groups = await ledger.task.groupBy({ by: ['state'], _count: { id: true } });
    return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
  });
  stateGauge(registry, { name: 'berth_migrations', help: 'Migrations by state', states: migrationStates }, async () => {
    const groups = await ledger.migration.groupBy({ by: ['state'], _count: { id: true } });
    return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
  });
  const guests = { name: 'berth_migrated_guests', help: 'Migrations by what the guest did behind them', states: migratedGuests };
  stateGauge(registry, guests, async () => {
    const groups = await ledger.migration.groupBy({ by: ['guest'], _count: { id: true } });
    return groups.map(({ guest, _count }) => ({ state: guest ?? '', rows: _count.id }));
  });
  stateGauge(registry, { name: 'berth_hosts', help: 'Hosts by state', states: hostStates }, async () => {
    const groups = await ledger.host.groupBy({ by: ['state'], _count: { id: true } });
    return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
  });
  new Gauge({
    name: 'berth_vm_boots',
    help: 'VMs in the ledger by how they came to life: warm, from a template, or cold, and then why so',
    labelNames: ['boot', 'why'],
    registers: [registry],
    async collect() {
      this.reset();
      const groups = await ledger.vm.groupBy({ by: ['boot', 'bootWhy'], where: { boot: { not: null } }, _count: { id: true } });
      for (const { boot, bootWhy, _count } of groups) this.set({ boot: boot ?? '', why: bootWhy ?? '' }, _count.id);
    },
  });
  new Gauge({
    name: 'berth_queue_oldest_seconds',
    help: 'Age of the oldest queued task',
    registers: [registry],
    async collect() {
      const oldest = await ledger.task.findFirst({
        where: { state: 'queued' },
        orderBy: { createdAt: 'asc' },
        select: { createdAt: true },
      });
      this.set(oldest ? (clock() - oldest.createdAt.getTime()) / 1000 : 0);
    },
  });
}

interface MigrationSums {
  mode: string;
  outcome: string;
  migrations: number;
  seconds: number;
  downtimeS: number;
  bytes: number;
}

/** What migrations took, as sums over all that have ended: a rate of one by a rate of another is a mean. */
function migrationTotals(registry: Registry, ledger: Ledger): void {
  const outcomes = ['succeeded', 'rolledBack'];
  const read = () => ledger.$queryRaw<MigrationSums[]>`
    SELECT mode, state::text AS outcome, count(*)::int AS migrations,
      COALESCE(sum(extract(epoch FROM "finishedAt" - COALESCE("startedAt", "createdAt"))), 0)::float8 AS seconds,
      COALESCE(sum("downtimeMs"), 0)::float8 / 1000 AS "downtimeS", COALESCE(sum(bytes), 0)::float8 AS bytes
    FROM "Migration" WHERE state IN ('succeeded', 'rolledBack') GROUP BY mode, state`;
  const sums: Record<Exclude<keyof MigrationSums, 'mode' | 'outcome'>, { name: string; help: string }> = {
    migrations: { name: 'berth_migrations_ended_total', help: 'Migrations that have ended' },
    seconds: { name: 'berth_migration_seconds_total', help: 'Time from their turn to their end' },
    downtimeS: { name: 'berth_migration_downtime_seconds_total', help: 'Time that guests stood still' },
    bytes: { name: 'berth_migration_bytes_total', help: 'What went over the network: memory, or disks that moved alone' },
  };
  for (const [key, { name, help }] of Object.entries(sums))
    new Gauge({
      name,
      help,
      labelNames: ['mode', 'outcome'],
      registers: [registry],
      async collect() {
        const rows = await read();
        for (const mode of migrationModes)
          for (const outcome of outcomes) {
            const row = rows.find((one) => one.mode === mode && one.outcome === outcome);
            this.set({ mode, outcome }, row?.[key as keyof typeof sums] ?? 0);
          }
      },
    });
}

/** Of drains that are under way, by host; as seen at their last look. */
function drainGauges(registry: Registry, ledger: Ledger, clock: () => number): void {
  stateGauge(registry, { name: 'berth_drains', help: 'Drains by state', states: drainStates }, async () => {
    const groups = await ledger.drain.groupBy({ by: ['state'], _count: { id: true } });
    return groups.map(({ state, _count }) => ({ state, rows: _count.id }));
  });
  const figures: { name: string; help: string; of: (drain: DrainPlanRow, now: number) => number | null }[] = [
    { name: 'vms_left', help: 'VMs that are still to leave', of: ({ plan }) => plan.moves.length + plan.leaving.length },
    { name: 'suspensions', help: 'VMs that are to be suspended there', of: ({ plan }) => plan.suspensions.length },
    { name: 'blockers', help: 'VMs that are in the way', of: ({ plan }) => plan.blockers.length },
    {
      name: 'recovery_seconds',
      help: 'Behind its move, until a VM is expected to be as busy as before: the longest of those to move',
      of: ({ plan }) => {
        const known = plan.moves.flatMap(({ recoveryS }) => recoveryS ?? []);
        return known.length === 0 ? null : Math.max(...known);
      },
    },
    {
      name: 'eta_seconds',
      help: 'Until the host is expected to be empty',
      of: ({ plan }, now) => (plan.expectedAt === null ? null : (Date.parse(plan.expectedAt) - now) / 1000),
    },
    {
      name: 'slack_seconds',
      help: 'From the time by which it is sure to be empty to its deadline; below 0 it is late',
      of: ({ plan, deadline }) => (plan.emptyBy === null ? null : (deadline.getTime() - Date.parse(plan.emptyBy)) / 1000),
    },
  ];
  for (const { name, help, of } of figures)
    new Gauge({
      name: `berth_drain_${name}`,
      help,
      labelNames: ['host'],
      registers: [registry],
      async collect() {
        this.reset();
        const rows = await ledger.drain.findMany({ where: { state: { in: ['waiting', 'moving', 'paused'] } } });
        for (const { hostId, plan, deadline } of rows) {
          const value = plan === null ? null : of({ plan: plan as unknown as DrainOutline, deadline }, clock());
          if (value !== null) this.set({ host: hostId }, value);
        }
      },
    });
}

interface DrainPlanRow {
  plan: DrainOutline;
  deadline: Date;
}

export function openMetrics(ledger: Ledger, clock: () => number): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  ledgerGauges(registry, ledger, clock);
  migrationTotals(registry, ledger);
  drainGauges(registry, ledger, clock);
  const duration = new Histogram({
    name: 'berth_http_request_duration_seconds',
    help: 'Time to the end of the answer, by route',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60],
    registers: [registry],
  });
  const transferred = new Counter({
    name: 'berth_http_bytes_total',
    help: 'Bytes on the wire',
    labelNames: ['direction'],
    registers: [registry],
  });
  // A connection carries many requests: what was counted of it already.
  const counted = new WeakMap<object, { in: number; out: number }>();

  function countBytes(req: Request): void {
    const { socket } = req;
    const before = counted.get(socket) ?? { in: 0, out: 0 };
    const now = { in: socket.bytesRead, out: socket.bytesWritten };
    transferred.inc({ direction: 'in' }, now.in - before.in);
    transferred.inc({ direction: 'out' }, now.out - before.out);
    counted.set(socket, now);
  }

  return {
    registry,
    observe: (req: Request, res: Response, next) => {
      const stop = duration.startTimer();
      res.once('close', () => {
        const status = res.writableFinished ? String(res.statusCode) : 'aborted';
        stop({ method: req.method, route: routes.get(req) ?? 'unknown', status });
        countBytes(req);
      });
      next();
    },
  };
}

/** Liveness of what this process needs, each asked with a deadline (ms). */
export async function checkHealth(
  checks: Record<string, () => Promise<unknown>>,
  deadlineMs: number,
  log: Logger,
): Promise<{ healthy: boolean; parts: Record<string, 'ok' | 'failed'> }> {
  const parts: Record<string, 'ok' | 'failed'> = {};
  await Promise.all(
    Object.entries(checks).map(async ([name, check]) => {
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => late.reject(new Error(`no answer within ${deadlineMs} ms`)), deadlineMs);
      try {
        await Promise.race([check(), late.promise]);
        parts[name] = 'ok';
      } catch (error) {
        log.warn({ err: error, part: name }, 'a health check failed');
        parts[name] = 'failed';
      } finally {
        clearTimeout(timer);
      }
    }),
  );
  return { healthy: Object.values(parts).every((part) => part === 'ok'), parts };
}
