import type { Request, RequestHandler, Response } from 'express';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { readBalanceCounts } from '../ledger/balance/read-decisions.ts';
import { readLastProof } from '../ledger/books/proof.ts';
import type { Ledger } from '../ledger/client.ts';
import { readEdgeCounts, readPortCounts } from '../ledger/edges/read-edges.ts';
import { readEventLog } from '../ledger/events/event-log.ts';
import { readLoadCounts } from '../ledger/load/balancer.ts';
import { readMoneyAtRisk, readMoneyTotals } from '../ledger/market/money-totals.ts';
import {
  type MigrationTotals,
  type PlannedDrain,
  readClockOffsets,
  readDrainCounts,
  readDrainPlans,
  readFences,
  readFirstEnd,
  readHostCounts,
  readMigrationMetrics,
  readOldestQueuedAt,
  readTaskCounts,
  readVmMetrics,
} from '../ledger/metrics.ts';
import { readMarketCounts } from '../ledger/offers/market-counts.ts';
import { readSweeps } from '../ledger/repository/change-sweeps.ts';
import { readEntryCounts } from '../ledger/tree/entry-counts.ts';
import { readWebhookCounts } from '../ledger/webhooks/read-webhooks.ts';
import { drainStates } from '../model/drain.ts';
import type { Logger } from '../model/log.ts';
import { migratedGuests, migrationModes, migrationStates } from '../model/migration.ts';
import { portStates } from '../model/network/published-port.ts';
import { sweepHolds } from '../model/repository/sweep.ts';
import { hostStates, taskStates, vmStates } from '../model/states.ts';
import { pausedByParties } from '../model/vm.ts';
import { openLoadMetrics } from './load-metrics.ts';
import { openMoneyMetrics } from './money-metrics.ts';
import { openTreeMetrics } from './tree/tree-metrics.ts';
import { openWebhookMetrics } from './webhook-metrics.ts';

/** The route of a request: the path as declared, not as sent, which bounds the number of series. */
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

/** Reads once for all callers at the same time: the gauges of one scrape collect concurrently, and share the query. */
function shared<T>(read: () => Promise<T>): () => Promise<T> {
  let pending: Promise<T> | null = null;
  return () => {
    pending ??= read().finally(() => {
      pending = null;
    });
    return pending;
  };
}

/** A gauge by state that is read from the ledger at each scrape; states without rows are 0. */
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

const vmStateLabels = vmStates.flatMap((state) => (state === 'paused' ? pausedByParties.map((by) => `paused.${by}`) : [state]));

function ledgerGauges(registry: Registry, ledger: Ledger, clock: () => number): void {
  const readVms = shared(() => readVmMetrics(ledger));
  const readMigrations = shared(() => readMigrationMetrics(ledger));
  const readAllFences = shared(() => readFences(ledger));
  const gauges = [
    { name: 'berth_tasks', help: 'Tasks by state', states: taskStates, read: () => readTaskCounts(ledger) },
    {
      name: 'berth_migrations',
      help: 'Migrations by state',
      states: migrationStates,
      read: async () => (await readMigrations()).states,
    },
    {
      name: 'berth_migrated_guests',
      help: 'Migrations by what the guest did after them',
      states: migratedGuests,
      read: async () => (await readMigrations()).guests,
    },
    {
      name: 'berth_vms',
      help: 'VMs by state; paused ones by who paused them',
      states: vmStateLabels,
      read: async () => (await readVms()).states,
    },
    { name: 'berth_hosts', help: 'Hosts by state', states: hostStates, read: () => readHostCounts(ledger) },
    { name: 'berth_edges', help: 'Edges by state', states: hostStates, read: () => readEdgeCounts(ledger, clock()) },
    { name: 'berth_published_ports', help: 'Published ports by state', states: portStates, read: () => readPortCounts(ledger) },
    { name: 'berth_drains', help: 'Drains by state', states: drainStates, read: () => readDrainCounts(ledger) },
  ];
  for (const { read, ...about } of gauges) stateGauge(registry, about, read);
  migrationTotals(registry, async () => (await readMigrations()).totals);
  new Gauge({
    name: 'berth_vm_boots',
    help: 'VMs in the ledger by how they booted: warm, from a template, or cold, and then why',
    labelNames: ['boot', 'why'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { boot, why, rows } of (await readVms()).boots) this.set({ boot, why }, rows);
    },
  });
  new Gauge({
    name: 'berth_host_clock_offset_seconds',
    help: "By how much a host's clock is ahead of the ledger's, at least; beyond two seconds it gets no new work",
    labelNames: ['host'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { host, seconds } of await readClockOffsets(ledger)) this.set({ host }, seconds);
    },
  });
  new Gauge({
    name: 'berth_repository_sweep_held',
    help: '1 for the reason for which the repository is not swept until an operator decides',
    labelNames: ['reason'],
    registers: [registry],
    async collect() {
      const { hold } = await readSweeps(ledger);
      for (const reason of sweepHolds) this.set({ reason }, reason === hold ? 1 : 0);
    },
  });
  const readLog = shared(() => readEventLog(ledger));
  new Gauge({
    name: 'berth_events_kept',
    help: 'Events that are kept',
    registers: [registry],
    async collect() {
      const { floor, last } = await readLog();
      this.set(Number(last - floor));
    },
  });
  new Gauge({
    name: 'berth_events_last',
    help: 'Number of the newest event',
    registers: [registry],
    async collect() {
      this.set(Number((await readLog()).last));
    },
  });
  new Gauge({
    name: 'berth_ended_oldest_seconds',
    help: 'Since the end of the task that ended first of those that are kept; 0 where there is none',
    registers: [registry],
    async collect() {
      const endedAt = await readFirstEnd(ledger);
      this.set(endedAt === null ? 0 : (clock() - endedAt.getTime()) / 1000);
    },
  });
  openMoneyMetrics(
    registry,
    shared(() => readMoneyTotals(ledger)),
    () => readMoneyAtRisk(ledger),
    shared(() => readMarketCounts(ledger, clock())),
  );
  openLoadMetrics(
    registry,
    () => readLoadCounts(ledger, clock()),
    shared(() => readBalanceCounts(ledger)),
  );
  openTreeMetrics(registry, () => readEntryCounts(ledger, clock()));
  openWebhookMetrics(
    registry,
    shared(() => readWebhookCounts(ledger, clock())),
  );
  const readProof = shared(() => readLastProof(ledger));
  new Gauge({
    name: 'berth_books_problems',
    help: 'What the last proof has found wrong with the books',
    registers: [registry],
    async collect() {
      this.set((await readProof())?.problems ?? 0);
    },
  });
  new Gauge({
    name: 'berth_books_proof_age_seconds',
    help: 'Since the last proof of the books; NaN before the first one',
    registers: [registry],
    async collect() {
      const proof = await readProof();
      this.set(proof === null ? Number.NaN : (clock() - proof.at.getTime()) / 1000);
    },
  });
  new Gauge({
    name: 'berth_books_entries',
    help: 'Entries of the books, as of the last proof',
    registers: [registry],
    async collect() {
      this.set((await readProof())?.entries ?? 0);
    },
  });
  new Gauge({
    name: 'berth_fences',
    help: 'VMs on hosts that have not confirmed their end, which an operator has forced',
    registers: [registry],
    async collect() {
      this.set((await readAllFences()).rows);
    },
  });
  new Gauge({
    name: 'berth_fence_oldest_seconds',
    help: 'Age of the oldest of them',
    registers: [registry],
    async collect() {
      const { oldestAt } = await readAllFences();
      this.set(oldestAt === null ? 0 : (clock() - oldestAt.getTime()) / 1000);
    },
  });
  new Gauge({
    name: 'berth_queue_oldest_seconds',
    help: 'Age of the oldest queued task',
    registers: [registry],
    async collect() {
      const oldest = await readOldestQueuedAt(ledger);
      this.set(oldest === null ? 0 : (clock() - oldest.getTime()) / 1000);
    },
  });
}

/** Sums over all migrations that have ended: the rate of one sum by the rate of another is a mean. */
function migrationTotals(registry: Registry, read: () => Promise<MigrationTotals[]>): void {
  const outcomes = ['succeeded', 'rolledBack'];
  const sums: Record<Exclude<keyof MigrationTotals, 'mode' | 'outcome'>, { name: string; help: string }> = {
    migrations: { name: 'berth_migrations_ended_total', help: 'Migrations that have ended' },
    seconds: { name: 'berth_migration_seconds_total', help: 'Time from their admission to their end' },
    downtimeS: { name: 'berth_migration_downtime_seconds_total', help: 'Time that guests were paused' },
    bytes: { name: 'berth_migration_bytes_total', help: 'Bytes transferred: memory, or disks that moved alone' },
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

/** Of drains that are under way, by host, as of the last step of each. */
function drainGauges(registry: Registry, ledger: Ledger, clock: () => number): void {
  const read = shared(() => readDrainPlans(ledger));
  const figures: { name: string; help: string; of: (drain: PlannedDrain, now: number) => number | null }[] = [
    { name: 'vms_left', help: 'VMs that have yet to leave', of: ({ plan }) => plan.moves.length + plan.leaving.length },
    { name: 'suspensions', help: 'VMs that are planned to be suspended there', of: ({ plan }) => plan.suspensions.length },
    { name: 'blockers', help: 'VMs that prevent the host from becoming empty', of: ({ plan }) => plan.blockers.length },
    {
      name: 'recovery_seconds',
      help: 'Expected time after its migration until a VM is as busy as before: the longest of those to migrate',
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
      help: 'From the time by which it is safe to expect it empty to its deadline; below 0 it is late',
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
        for (const drain of await read()) {
          const value = of(drain, clock());
          if (value !== null) this.set({ host: drain.host }, value);
        }
      },
    });
}

/** What this process has now. */
export function countSessions(registry: Registry, sessions: { size: number; links: { size: number } }): void {
  const figures = [
    {
      name: 'berth_sessions',
      help: 'Clients that are connected to sessions of guests, or are being connected',
      read: () => sessions.size,
    },
    { name: 'berth_session_links', help: 'Connections of hosts for them', read: () => sessions.links.size },
  ];
  for (const { name, help, read } of figures)
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
}

export function openMetrics(ledger: Ledger, clock: () => number): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  ledgerGauges(registry, ledger, clock);
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
  // Of each connection, which serves many requests: the bytes that were counted already.
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

/** Checks the services that this process needs, each with a deadline (ms). */
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
