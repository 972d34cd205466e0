import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fillLedger, hostOf, ownerOf } from '../../bench/scale/fill-ledger.ts';
import { questions } from '../../bench/scale/questions.ts';
import { findAccount, readAccounts } from '../../ledger/books/accounts.ts';
import { captureHold, placeHold, releaseHold } from '../../ledger/books/holds.ts';
import { readBooksProof, readLastProof } from '../../ledger/books/proof.ts';
import { readEntries } from '../../ledger/books/read-entries.ts';
import { sumAccounts } from '../../ledger/books/sum-accounts.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { listDrainsWithoutWorkflow } from '../../ledger/drains/housekeeping.ts';
import { acceptEdgeReport } from '../../ledger/edges/accept-edge-report.ts';
import { readEdgeCounts, readEdges, readPortCounts } from '../../ledger/edges/read-edges.ts';
import { readEventLog } from '../../ledger/events/event-log.ts';
import { readFiles } from '../../ledger/files/read-files.ts';
import { compareHost } from '../../ledger/hosts/compare-inventory.ts';
import { readMachines } from '../../ledger/hosts/read-machines.ts';
import { listBuildsToCancel, listBuildsWithoutWorkflow } from '../../ledger/images/build-housekeeping.ts';
import { readImages } from '../../ledger/images/read-images.ts';
import { listImagesToSweep } from '../../ledger/images/retirement.ts';
import { readFirstEnd, readMigrationMetrics, readTaskCounts, readVmMetrics } from '../../ledger/metrics.ts';
import { listMigrationsWithoutWorkflow } from '../../ledger/migrations/load-migration.ts';
import { readMigrations } from '../../ledger/migrations/read-migrations.ts';
import { findApiKey } from '../../ledger/owners/find-api-key.ts';
import { readKeys } from '../../ledger/owners/keys.ts';
import { readOwners } from '../../ledger/owners/owners.ts';
import { readQuotas } from '../../ledger/owners/quotas.ts';
import { readPorts } from '../../ledger/ports/read-ports.ts';
import { listReservationsWithoutWorkflow } from '../../ledger/reservations/step-reservation.ts';
import { endedBefore, removeEndedTasks } from '../../ledger/retention/remove-ended.ts';
import { removeExpired } from '../../ledger/retention/remove-expired.ts';
import { sweepExpiredRows } from '../../ledger/sweep-expired.ts';
import { readTasks } from '../../ledger/tasks/read-tasks.ts';
import { reserveTask } from '../../ledger/tasks/reserve-task.ts';
import type { LedgerDeps, Transaction } from '../../ledger/transaction.ts';
import { acceptSession } from '../../ledger/vms/accept-session.ts';
import { readVms } from '../../ledger/vms/read-vms.ts';
import { releaseVms } from '../../ledger/vms/release-vms.ts';
import { readConfig } from '../../model/config.ts';
import type { AccountId, HostId, TaskId, VmId } from '../../model/ids.ts';
import { quotaNames } from '../../model/owners/quota.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';
import { isFull } from '../tier.ts';
import { signingKey } from './ledger-fixture.ts';

/**
 * What has ended costs nothing: no question to the ledger reads a table that keeps history whole, nor more rows of it than
 * what is under way, as PostgreSQL itself counts them.
 */

const ended = isFull ? 1_000_000 : 20_000;
const live = 400;
/** A page of a hundred with what belongs to it, the newest measurements, and what is under way, for each of its indexes. */
const mostRows = 20 * live;

let database: FreshDatabase;
let ledger: Ledger;
let pool: pg.Pool;
let deps: LedgerDeps;
const nowMs = Date.parse('2026-11-29T09:00:00Z');

beforeAll(async () => {
  database = await startPostgres();
  await fillLedger(database.url, { hosts: 20, vms: live, ended, promises: 1, events: 0 }, nowMs);
  // One session: its counters are complete once it has reported them.
  ledger = openLedger(database.url, 1);
  pool = new pg.Pool({ connectionString: database.url, max: 1 });
  pool.on('error', () => undefined);
  const config = readConfig(['signing', 'control'], {
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: 'http://repository.test:8080/',
  });
  deps = { ledger, ...config, clock: () => nowMs };
}, 600_000);
afterAll(async () => {
  await ledger.$disconnect();
  await pool.end();
  await database.stop();
});

const tables = [
  'Account',
  'ApiKey',
  'Entry',
  'Event',
  'EventId',
  'File',
  'Idempotency',
  'Lease',
  'Migration',
  'Task',
  'Transfer',
  'Vm',
];

interface TableUse {
  table: string;
  scans: number;
  rows: number;
}

async function tableUse(): Promise<TableUse[]> {
  await ledger.$executeRaw`SELECT pg_stat_force_next_flush()`;
  await ledger.$executeRaw`SELECT 1`;
  // What this session itself has read whole before, to count it.
  await pool.query('SELECT pg_stat_force_next_flush()');
  const { rows } = await pool.query<TableUse>(
    // Partitions as one table; that of events without a number has none of history.
    `SELECT regexp_replace(t.relname, '_[0-9]+$', '') AS table, sum(t.seq_scan)::int AS scans,
       sum(t.seq_tup_read + (SELECT COALESCE(sum(i.idx_tup_read), 0) FROM pg_stat_user_indexes i WHERE i.relid = t.relid))::int AS rows
     FROM pg_stat_user_tables t WHERE regexp_replace(t.relname, '_[0-9]+$', '') = ANY($1) GROUP BY 1 ORDER BY 1`,
    [tables],
  );
  return rows;
}

const asksBefore = 9;

/** Of each table: how often it was read whole, and how many rows were read. */
async function readBy(ask: () => Promise<unknown>): Promise<TableUse[]> {
  // The first use of a session reads the catalogue; the sixth of a kept statement may take a plan for all its parameters.
  for (let i = 0; i < asksBefore; i += 1) await ask();
  const before = await tableUse();
  await ask();
  return (await tableUse()).map(({ table, scans, rows }, i) => ({
    table,
    scans: scans - before[i]!.scans,
    rows: rows - before[i]!.rows,
  }));
}

const page = { limit: 100, after: null };
const later = { limit: 100, after: { id: 'task_e5', createdAt: new Date(nowMs - 90_000_000) } };
const limits = Object.fromEntries(quotaNames.map((name) => [name, 1])) as Parameters<typeof readQuotas>[2];

/** Of work that goes on: a port of one of its VMs is published, and another is withdrawn. */
const edgeReport = { address: '192.0.2.9', problem: null, turn: 0, epoch: null, version: null, ports: {} };
const vm = 'vm_0' as VmId;
let session = 0;

const rooms: Record<string, () => Promise<unknown>> = {
  'accounts of every owner': () => ledger.$transaction((tx) => readAccounts(tx, { owner: null }, page)),
  'accounts of every owner, of a kind': () => ledger.$transaction((tx) => readAccounts(tx, { owner: null, kind: 'owner' }, page)),
  'accounts of an owner': () => ledger.$transaction((tx) => readAccounts(tx, { owner: ownerOf(0) }, page)),
  'accounts of an owner, of a kind': () =>
    ledger.$transaction((tx) => readAccounts(tx, { owner: ownerOf(0), kind: 'owner' }, page)),
  'an account': () => ledger.$transaction((tx) => findAccount(tx, ownerOf(0), 'account_0')),
  'entries of an account, and the second page': () =>
    ledger.$transaction(async (tx) => {
      await readEntries(tx, 'account_0', { limit: 100, before: null });
      await readEntries(tx, 'account_revenue', { limit: 100, before: BigInt(ended) });
    }),
  'the summing of accounts': () => sumAccounts(ledger),
  'the last proof of the books': () => readLastProof(ledger),
  'a hold, its capture and its end': () => undone((tx) => holdAndCapture(tx)),
  'keys of every owner': () => readKeys(ledger, null, page),
  'keys of an owner': () => readKeys(ledger, ownerOf(0), page),
  'an API key': () => findApiKey(ledger, 'a hash of nobody', nowMs),
  owners: () => readOwners(ledger, { limit: 5, after: null }, { limits, nowMs }),
  edges: () => readEdges(ledger, page, nowMs),
  ports: () => readPorts(ledger, null, null, page),
  'ports of an owner, of a VM': async () => {
    await readPorts(ledger, ownerOf(0), null, page);
    await readPorts(ledger, ownerOf(0), vm, page);
  },
  'counts of edges and ports': async () => {
    await readEdgeCounts(ledger, nowMs);
    await readPortCounts(ledger);
  },
  'an exchange with an edge': () =>
    acceptEdgeReport(ledger, { edge: 'edge1', report: edgeReport, publicAddresses: ['192.0.2.1'], nowMs }),
  'a session in a VM': () => {
    session += 1;
    return acceptSession(ledger, { vm, key: 'key', session: session.toString(16).padStart(32, '0'), kind: 'console', nowMs });
  },
  'machines of the site': () => readMachines(ledger, hostOf(0), ''),
  'what is kept of events and of ended work': async () => {
    await readEventLog(ledger);
    await readFirstEnd(ledger);
  },
  'the removal of what is kept no more, when there is none': () => removeExpired(deps),
};

class Undo extends Error {}

async function undone(work: (tx: Transaction) => Promise<unknown>): Promise<void> {
  const undo = () => Promise.reject(new Undo());
  await ledger
    .$transaction((tx) => work(tx).then(undo))
    .catch((error: unknown) => {
      if (!(error instanceof Undo)) throw error;
    });
}

async function holdAndCapture(tx: Transaction): Promise<void> {
  const hold = { ownerId: ownerOf(0), subject: 'task_0', currency: 'EUR' };
  const act = (idempotencyKey: string) => ({ reason: 'test', keyId: null, idempotencyKey, atMs: nowMs });
  const [from, to] = ['account_0' as AccountId, 'account_revenue' as AccountId];
  await placeHold(tx, hold, { ...act('hold'), from, amountMicros: 10n });
  await captureHold(tx, hold, { ...act('capture'), to: [{ account: to, amountMicros: 4n }] });
  await releaseHold(tx, hold, { ...act('release'), rest: from });
}

const more: Record<string, () => Promise<unknown>> = {
  ...rooms,
  'tasks, the second page': () => readTasks(ledger, { owner: null }, later),
  'tasks of an owner, the second page': () => readTasks(ledger, { owner: ownerOf(0) }, later),
  'VMs of an owner': () => readVms(ledger, ownerOf(0), page),
  'migrations of an owner': () => readMigrations(ledger, { owner: ownerOf(0) }, page),
  'migrations under way': () => readMigrations(ledger, { owner: null, state: 'running' }, page),
  'migrations of a VM': () => readMigrations(ledger, { owner: null, vm: 'vm_e10' }, page),
  files: () => readFiles(ledger, null, page),
  images: () => readImages(ledger, { owner: ownerOf(0), everyOwner: true }, {}, page),
  quotas: () => readQuotas(ledger, ownerOf(0), limits, nowMs),
  'migrations without a workflow': () => listMigrationsWithoutWorkflow(deps, 10),
  'drains without a workflow': () => listDrainsWithoutWorkflow(deps, 10),
  'reservations without a workflow': () => listReservationsWithoutWorkflow(deps, 10),
  'builds without a workflow, to cancel': async () => {
    await listBuildsWithoutWorkflow(deps, 10);
    await listBuildsToCancel(deps, 10);
  },
  'images to sweep': () => listImagesToSweep(deps),
  'expired rows': () => sweepExpiredRows(deps),
  'the release of nothing': () => releaseVms(deps, []),
  'the placement of a task that waits': () => reserveTask(deps, 'task_p0' as TaskId),
  'the inventory of a host': () =>
    compareHost(
      deps,
      hostOf(0) as HostId,
      { domains: [], disks: [], images: [] } as unknown as Parameters<typeof compareHost>[2],
    ),
};

describe(`with ${ended} ended tasks`, () => {
  const names = Object.keys(questions({} as LedgerDeps, 0));
  it.each([...names, ...Object.keys(more)])('%s', async (name) => {
    const used = await readBy(more[name] ?? questions(deps, nowMs)[name]!);
    expect(used.filter(({ scans, rows }) => scans > 0 || rows > mostRows)).toEqual([]);
  });
});

/** What the metrics count, from all rows. */
const countedFromRows: Record<string, string> = {
  tasks: `SELECT state::text, count(*)::int AS rows FROM "Task" GROUP BY 1`,
  vms: `SELECT state::text, count(*)::int AS rows FROM "Vm" GROUP BY 1`,
  boots: `SELECT boot || ' ' || COALESCE("bootWhy", '') AS state, count(*)::int AS rows FROM "Vm" WHERE boot IS NOT NULL GROUP BY 1`,
  totals: `SELECT mode::text || ' ' || state::text AS state, count(*)::int AS rows FROM "Migration"
    WHERE "finishedAt" IS NOT NULL GROUP BY 1`,
  migrations: `SELECT state::text, count(*)::int AS rows FROM "Migration" GROUP BY 1`,
  guests: `SELECT COALESCE(guest, '') AS state, count(*)::int AS rows FROM "Migration" GROUP BY 1`,
};
const counts: Record<string, () => Promise<{ state: string; rows: number }[]>> = {
  tasks: () => readTaskCounts(ledger),
  vms: async () => (await readVmMetrics(ledger)).states,
  boots: async () => (await readVmMetrics(ledger)).boots.map(({ boot, why, rows }) => ({ state: `${boot} ${why}`, rows })),
  migrations: async () => (await readMigrationMetrics(ledger)).states,
  guests: async () => (await readMigrationMetrics(ledger)).guests,
  totals: async () =>
    (await readMigrationMetrics(ledger)).totals.map(({ mode, outcome, migrations }) => ({
      state: `${mode} ${outcome}`,
      rows: migrations,
    })),
};
const byState = (rows: { state: string; rows: number }[]) => rows.map(({ state, rows: n }) => [state, n]).sort();

it('metrics count what has ended as all rows do, before and after it is kept as a count, by several at once', async () => {
  for (let round = 0; round < 3; round += 1)
    for (const [name, read] of Object.entries(counts)) {
      const expected = byState((await pool.query<{ state: string; rows: number }>(countedFromRows[name]!)).rows);
      const answers = await Promise.all([read(), read(), read()]);
      for (const answer of answers) expect(byState(answer), name).toEqual(expected);
    }
  const { rows } = await pool.query<{ kept: number }>(
    `SELECT COALESCE(sum(rows), 0)::int AS kept FROM "EndedCount" WHERE subject = 'tasks'`,
  );
  expect(rows[0]!.kept).toBe(ended);
});

it('the removal of ended work reads what it removes, and what hangs on that', async () => {
  const strict = { ...deps, control: { ...deps.control, BERTH_ENDED_RETENTION_DAYS: 1 } };
  const before = (await endedBefore(strict))!;
  const used = await readBy(async () => expect(await removeEndedTasks(strict, before)).toBe(200));
  // Two thousand are looked at: their VMs, leases and accounts; by several indexes.
  expect(used.filter(({ scans, rows }) => scans > 0 || rows > 4 * 2000)).toEqual([]);
});

it('the filled books are in order', async () => {
  expect(await readBooksProof(ledger, nowMs)).toMatchObject({ problems: 0, transfers: 2 * ended, entries: 4 * ended });
});
