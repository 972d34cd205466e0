import pg from 'pg';
import { afterAll, beforeAll, expect } from 'vitest';
import { createLedgerActivities } from '../../activities/ledger/index.ts';
import type { FetchedStep, FetchedStepArgs, VmRef } from '../../contracts/host-calls.ts';
import type { LedgerActivities, TaskOutcome } from '../../contracts/ledger.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { acceptTask } from '../../ledger/tasks/accept-task.ts';
import { readFetchedStepArgs } from '../../ledger/tasks/fetched-step-args.ts';
import { readConfig } from '../../model/config.ts';
import type { HostFacts, Resources } from '../../model/host.ts';
import { type HostId, type ImageId, newId, type TaskId } from '../../model/ids.ts';
import { TaskSpec } from '../../model/task.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';

export const hex64 = 'ab'.repeat(32);
export const signingKey = 'a key of this test alone, 32 or more';

/** One database of this file, the ledger's activities over it, and a clock that the test moves. */
export interface LedgerFixture {
  database: FreshDatabase;
  ledger: Ledger;
  activities: LedgerActivities;
  /** Raw SQL, without Prisma and the activities. */
  sql: <R extends pg.QueryResultRow = pg.QueryResultRow>(text: string, values?: unknown[]) => Promise<R[]>;
  pool: pg.Pool;
  /** Milliseconds since 1970; accept() advances it by a second. */
  now: number;
  maxOvertaken: number;
  /** The activities of another control worker, with another setting. */
  activitiesWith: (env: Record<string, string>) => LedgerActivities;
}

/** For the top of a describe or a file: the fixture is filled before the first test. */
export function useLedger(): LedgerFixture {
  const fixture = { now: Date.parse('2026-11-21T10:00:00Z'), maxOvertaken: 2 } as LedgerFixture;
  beforeAll(async () => {
    fixture.database = await startPostgres();
    fixture.ledger = openLedger(fixture.database.url, 40);
    fixture.pool = new pg.Pool({ connectionString: fixture.database.url, max: 60 });
    // Dropping the database closes its connections.
    fixture.pool.on('error', () => undefined);
    fixture.sql = async <R extends pg.QueryResultRow>(text: string, values: unknown[] = []) =>
      (await fixture.pool.query<R>(text, values)).rows;
    fixture.activitiesWith = (env) => {
      const config = readConfig(['signing', 'control'], {
        BERTH_SIGNING_KEY: signingKey,
        BERTH_REPOSITORY_URL: 'http://repository.test:8080/',
        BERTH_MAX_OVERTAKEN: String(fixture.maxOvertaken),
        ...env,
      });
      return createLedgerActivities({ ledger: fixture.ledger, ...config, clock: () => fixture.now });
    };
    fixture.activities = fixture.activitiesWith({});
  });
  afterAll(async () => {
    await fixture.ledger?.$disconnect();
    await fixture.pool?.end();
    await fixture.database?.stop();
  });
  return fixture;
}

/** What the host of a VM fetches for a step. */
export async function fetched(
  { ledger, now }: LedgerFixture,
  { host, id, generation }: Pick<VmRef, 'host' | 'id' | 'generation'>,
  step: FetchedStep,
): Promise<FetchedStepArgs> {
  const { signing } = readConfig(['signing'], {
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: 'http://repository.test:8080/',
  });
  return readFetchedStepArgs({ ledger, signing, clock: () => now }, { host, vm: id, generation, step });
}

const emptied = [
  'Offer',
  'JoinToken',
  'Provider',
  'EntryMark',
  'OwnerMeter',
  'OwnerCharge',
  'PortStay',
  'Budget',
  'WebhookDelivery',
  'WebhookSecret',
  'Webhook',
  'PublishedPort',
  'EdgeLease',
  'EdgeSegment',
  'Edge',
  'Event',
  'EventId',
  'Fence',
  'WorkflowEnd',
  'Measurement',
  'VmLoad',
  'LoadChunk',
  'MoveHold',
  'BalanceMove',
  'BalanceDecision',
  'DrainSuspension',
  'Drain',
  'HostReservation',
  'HostHold',
  'Migration',
  'VmStay',
  'Bill',
  'Quote',
  'PriceBook',
  'Vm',
  'Task',
  'Lease',
  'HostImage',
  'Image',
  'Host',
  'TrashEntry',
  'Deletion',
  'TreeEntry',
  'ExpiryRule',
  'File',
  'StoredLog',
  'Network',
  'Idempotency',
  'ApiKey',
  'Entry',
  'Transfer',
  'Account',
  'Owner',
];

/**
 * Deletes all rows, so that each test starts with none. With triggers and foreign keys off this takes a tenth of the time of
 * a TRUNCATE, which makes new files for each table and each of its indexes.
 */
export async function empty({ pool }: LedgerFixture): Promise<void> {
  await pool.query(`
    SET LOCAL session_replication_role = replica;
    ${emptied.map((table) => `DELETE FROM "${table}";`).join('')}
    SELECT berth_list_machines()`);
}

/** Begins the log anew, in partitions of so many events: what happens at their borders happens all the time. */
export async function narrowEvents(fixture: LedgerFixture, width: number): Promise<void> {
  const partitions = await fixture.sql<{ from: string }>('SELECT "from" FROM "EventPartition"');
  await fixture.sql('TRUNCATE "Event", "EventId", "EventPartition"');
  for (const { from } of partitions) await fixture.sql(`DROP TABLE "Event_${from}"`);
  await fixture.sql('UPDATE "EventLog" SET floor = 0, "retentionDays" = NULL, "leastWidth" = $1, "mostWidth" = $1', [width]);
  // What is before the first event, so that a partition is opened after it.
  await fixture.sql('INSERT INTO "EventPartition" ("from", until) VALUES (0, 1)');
  await fixture.sql('SELECT berth_open_event_partition()');
  await fixture.sql('DELETE FROM "EventPartition" WHERE "from" = 0');
}

/** Lets the test move the clock by which triggers meter: milliseconds since 1970, from the fixture's time on. */
export async function useMeterClock(fixture: LedgerFixture): Promise<(ms: number) => Promise<unknown>> {
  await fixture.sql('CREATE TABLE "MeterClock" (ms bigint NOT NULL)');
  await fixture.sql('INSERT INTO "MeterClock" VALUES ($1)', [fixture.now]);
  await fixture.sql(
    `CREATE OR REPLACE FUNCTION berth_now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT ms FROM "MeterClock"'`,
  );
  return (ms) => fixture.sql('UPDATE "MeterClock" SET ms = $1', [ms]);
}

export async function addOwner(fixture: LedgerFixture, name = 'alice', maxBytes: bigint | null = null): Promise<string> {
  const owner = await fixture.ledger.owner.create({ data: { id: newId('owner'), name, maxBytes } });
  return owner.id;
}

export async function addImage(fixture: LedgerFixture, name = 'debian-12', virtualMiB = 0): Promise<ImageId> {
  const part = (file: string) => ({ file, sha256: hex64, sizeBytes: 10 });
  const image = await fixture.ledger.image.create({
    data: {
      id: newId('image'),
      name,
      digest: newId('image'),
      state: 'ready',
      recipe: {},
      virtualMiB,
      cmdline: 'root=/dev/vda',
      sizeBytes: 30n,
      parts: { disk: part('file_disk'), kernel: part('file_kernel'), initrd: part('file_initrd') },
    },
  });
  return image.id as ImageId;
}

let hosts = 0;

export function hostFacts(id: string, capacity: Resources, more: Partial<HostFacts> = {}): HostFacts {
  hosts += 1;
  return {
    hostId: id as HostId,
    address: `192.0.2.${hosts % 250}`,
    provider: 'site',
    capacity,
    reserve: { vcpus: 0, memoryMiB: 0, diskMiB: 0 },
    cpuModel: 'test',
    accelerator: 'qemu',
    hypervisor: 'none',
    images: [],
    bootId: 'boot-1',
    ...more,
  };
}

export const roomy: Resources = { vcpus: 8, memoryMiB: 8192, diskMiB: 100_000 };

export async function accept(fixture: LedgerFixture, owner: string, spec: Record<string, unknown> = {}): Promise<TaskId> {
  fixture.now += 1000;
  const nowMs = fixture.now;
  const parsed = TaskSpec.parse({ image: 'debian-12', command: ['true'], ...spec });
  const accepted = await fixture.ledger.$transaction((tx) => acceptTask(tx, { owner, spec: parsed, nowMs }));
  return accepted.id as TaskId;
}

/** The resources that VMs take of each host by their rows, and by the host's row. */
export async function usage(
  fixture: LedgerFixture,
): Promise<{ id: string; said: number[]; summed: number[]; capacity: number[] }[]> {
  return fixture.sql(`
    SELECT h.id, ARRAY[h."usedVcpus", h."usedMemoryMiB", h."usedDiskMiB"] AS said,
      ARRAY[h.vcpus, h."memoryMiB", h."diskMiB"] AS capacity,
      ARRAY[COALESCE(sum(v.vcpus) FILTER (WHERE v."hostId" = h.id AND NOT v.asleep), 0)::int,
            COALESCE(sum(v."memoryMiB") FILTER (WHERE v."hostId" = h.id AND NOT v.asleep), 0)::int,
            COALESCE(sum(v."diskMiB" + v."overlayMiB") FILTER (WHERE v."homeId" = h.id), 0)::int +
            COALESCE(sum(v."memoryMiB") FILTER (WHERE v."hostId" = h.id AND (v.asleep OR v.state IN ('suspending', 'restoring'))), 0)::int
      ] AS summed
    FROM "Host" h LEFT JOIN "Vm" v ON (v."hostId" = h.id OR v."homeId" = h.id) AND v.state NOT IN ('pending', 'removed')
    GROUP BY h.id ORDER BY h.id`);
}

/** Awaits the promise and returns the error that it rejects with. */
export async function failure(promise: Promise<unknown>): Promise<Error & { code?: string; constraint?: string }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
  throw new Error('expected an error, and there was none');
}

/** Holds the placement lock until `act` waits for it, changes the ledger meanwhile, and answers what `act` does then. */
export async function changedMeanwhile<T>(fixture: LedgerFixture, change: string, act: () => Promise<T>): Promise<T> {
  const client = await fixture.pool.connect();
  try {
    await client.query('BEGIN');
    await client.query('SELECT pg_advisory_xact_lock(7305, 2)');
    const answer = act();
    await expect
      .poll(async () => (await fixture.sql(`SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`)).length)
      .toBeGreaterThan(0);
    await client.query(change);
    await client.query('COMMIT');
    return await answer;
  } finally {
    client.release();
  }
}

/** What a task's workflow reports at its end: that it has succeeded without a trace, unless said otherwise. */
export const outcomeOf = (more: Partial<TaskOutcome> = {}): TaskOutcome => ({
  state: 'succeeded',
  exitCode: 0,
  error: null,
  outputs: [],
  bytesIn: 0,
  bytesOut: 0,
  vms: [],
  timeline: [],
  ...more,
});
