import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { readEvents } from '../../ledger/events/read.ts';
import { readMigrationMetrics, readTaskCounts, readVmMetrics } from '../../ledger/metrics.ts';
import { addOwner, empty, failure, narrowEvents, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const day = 86_400_000;
const width = 5;
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  await fixture.sql(`TRUNCATE "EndedCount"; UPDATE "EndedMark" SET until = 'epoch'`);
  owner = await addOwner(fixture);
  await narrowEvents(fixture, width);
  fixture.now = Date.now();
});

/** The activities of a control worker with these retentions; the other is for ever. */
const keeping = (days: { events?: number; ended?: number }) =>
  fixture.activitiesWith({
    BERTH_EVENT_RETENTION_DAYS: String(days.events ?? 0),
    BERTH_ENDED_RETENTION_DAYS: String(days.ended ?? 0),
  });

describe('events', () => {
  const write = async (from: number, to: number) => {
    await fixture.sql(
      `INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
       SELECT 'e' || i, 't' || i % 2, 's', $1, now(), '{}' FROM generate_series($2::int, $3::int) i`,
      [owner, from, to],
    );
    while ((await fixture.sql<{ n: number }>('SELECT berth_number_events(3) AS n'))[0]!.n > 0);
  };
  /** As if all that has been written until now had been published that long ago. */
  const age = (days: number) =>
    fixture.sql(`UPDATE "EventPartition" SET "openedAt" = "openedAt" - $1 * interval '1 day'`, [days]);
  const read = (after: bigint | null, filter: { owner?: string; type?: string } = {}) =>
    readEvents(fixture.ledger, { owner: filter.owner ?? null, type: filter.type }, { after, limit: 1000 });
  const numbers = async () =>
    (await fixture.sql<{ seq: number }>('SELECT seq::int FROM "Event" ORDER BY seq')).map(({ seq }) => seq);
  const tables = async () =>
    (
      await fixture.sql<{ name: string }>(
        `SELECT relname AS name FROM pg_class WHERE relispartition AND relkind = 'r' AND relname ~ '^Event_[0-9]' ORDER BY relname`,
      )
    ).map(({ name }) => name);
  const upTo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

  it('are kept for the time that is stated, from when they were published, and then go by whole partitions', async () => {
    await write(1, 12);
    await age(3);
    expect(await keeping({ events: 4 }).removeExpired()).toEqual({ rows: 0, more: false });
    expect(await numbers()).toEqual(upTo(1, 12));
    // 11 and 12 are in a partition that takes more: published just now, as far as is known.
    await keeping({ events: 2 }).removeExpired();
    expect(await numbers()).toEqual([11, 12]);
    expect(await tables()).toEqual(['Event_11']);
    expect((await fixture.sql('SELECT id FROM "EventId" ORDER BY id')).map(({ id }) => id)).toEqual(['e11', 'e12']);
    expect(await read(10n)).toMatchObject({ floor: 10n, next: 12n, retentionDays: 2 });
    expect(await keeping({ events: 2 }).removeExpired()).toEqual({ rows: 0, more: false });
  });

  it('are kept for ever where the retention is 0', async () => {
    await write(1, 12);
    await age(40_000);
    expect(await keeping({}).removeExpired()).toEqual({ rows: 0, more: false });
    expect(await read(null)).toMatchObject({ floor: 0n, retentionDays: null });
    expect(await numbers()).toEqual(upTo(1, 12));
  });

  it('a cursor from before them is refused, saying what to do; the oldest that is kept is not, nor is none at all', async () => {
    await write(1, 12);
    await age(3);
    await keeping({ events: 2 }).removeExpired();
    for (const after of [0n, 9n])
      expect(await failure(read(after))).toMatchObject({
        code: 'cursor-expired',
        message: expect.stringContaining('go on after 10'),
      });
    for (const after of [10n, null]) expect((await read(after)).events.map(({ id }) => id)).toEqual(['e11', 'e12']);
  });

  it('a cursor that is used never expires, though its filter leaves out all that happens', async () => {
    await write(1, 3);
    let cursor = (await read(null, { owner: 'nobody' })).next;
    for (let round = 0; round < 4; round += 1) {
      await write(4 + round * 6, 9 + round * 6);
      await age(3);
      cursor = (await read(cursor, { owner: 'nobody' })).next;
      await keeping({ events: 2 }).removeExpired();
      expect((await read(cursor)).floor).toBeGreaterThan(0n);
    }
    // A page that is full ends where it ends.
    expect(await readEvents(fixture.ledger, { owner, type: 't1' }, { after: 25n, limit: 1 })).toMatchObject({
      next: 27n,
    });
    expect(await readEvents(fixture.ledger, { owner, type: 't0' }, { after: 25n, limit: 1 })).toMatchObject({
      next: 26n,
    });
  });

  it('numbers go on after events that are all gone', async () => {
    await write(1, 10);
    await write(11, 11);
    await age(3);
    await keeping({ events: 2 }).removeExpired();
    expect(await numbers()).toEqual([11]);
    await write(12, 16);
    await age(3);
    await keeping({ events: 2 }).removeExpired();
    expect(await numbers()).toEqual([16]);
    // An id that is kept no more may be written again; one that is kept may not.
    await write(1, 1);
    expect((await failure(write(16, 16))).constraint).toBe('EventId_pkey');
    expect(await numbers()).toEqual([16, 17]);
  });

  it('followed by readers while they are written and removed: each is seen, or its reader told', async () => {
    const expired: number[] = [];
    const follow = async (pauseMs: number): Promise<void> => {
      let cursor: bigint | null = 0n;
      for (;;) {
        try {
          const page = await readEvents(fixture.ledger, { owner: null }, { after: cursor, limit: 4 });
          let expected: bigint = cursor ?? page.floor;
          for (const { seq } of page.events) expect(seq).toBe(++expected);
          cursor = page.next;
          if (cursor === 300n) return;
        } catch (error) {
          if ((error as { code?: string }).code !== 'cursor-expired') throw error;
          expired.push(pauseMs);
          cursor = null;
        }
        if (pauseMs === 0) await setImmediate();
        else await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    };
    const writing = (async () => {
      for (let i = 0; i < 100; i += 1) {
        await write(3 * i + 1, 3 * i + 3);
        if (i % 10 !== 9) continue;
        await age(3);
        await keeping({ events: 2 }).removeExpired();
      }
    })();
    await Promise.all([writing, follow(0), follow(0), follow(40)]);
    expect(await numbers()).toEqual(upTo(296, 300));
  });

  it('wait for a transaction that uses them, and hold up nobody meanwhile', async () => {
    await write(1, 12);
    await age(3);
    const slow = await fixture.pool.connect();
    try {
      await slow.query('BEGIN');
      await slow.query('SELECT count(*) FROM "Event"');
      const removal = keeping({ events: 2 }).removeExpired();
      await write(13, 14);
      await removal;
      // The ids are gone, and the cursors that were promised them; the tables are not.
      expect(await tables()).toEqual(['Event_1', 'Event_11', 'Event_6']);
      expect((await failure(read(3n))).message).toContain('kept no more');
      await slow.query('COMMIT');
    } finally {
      slow.release();
    }
    await keeping({ events: 2 }).removeExpired();
    expect(await tables()).toEqual(['Event_11']);
    expect(await numbers()).toEqual([11, 12, 13, 14]);
  });

  it('go all the same when the process that removes them is killed at any moment, several times', async () => {
    await write(1, 62);
    await age(3);
    let removing = true;
    const kills = (async () => {
      for (let i = 0; removing; i += 1) {
        await new Promise((resolve) => setTimeout(resolve, i % 7));
        // A connection that was ended while it returned to the pool fails whatever takes it next, this query as well.
        await fixture
          .sql(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND (query LIKE '%DROP TABLE%' OR query LIKE '%EventId%' OR query LIKE '%EventPartition%')`,
          )
          .catch(() => undefined);
      }
    })();
    for (let tries = 0; tries < 20; tries += 1)
      await keeping({ events: 2 })
        .removeExpired()
        .catch(() => undefined);
    removing = false;
    await kills;
    const remain = () =>
      keeping({ events: 2 })
        .removeExpired()
        .then(
          ({ rows }) => rows > 0,
          () => true,
        );
    while (await remain());
    expect(await numbers()).toEqual([61, 62]);
    expect(await fixture.sql('SELECT id FROM "EventId"')).toHaveLength(2);
    expect(await tables()).toEqual(['Event_61']);
  });
});

describe('what has ended', () => {
  const at = (days: number) => new Date(Date.now() - days * day).toISOString();

  /** A task of one VM that was moved once, all of it ended so many days ago. */
  async function endedTask(name: string, days: number): Promise<void> {
    const [ended, began] = [at(days), at(days + 0.1)];
    await fixture.sql(
      `INSERT INTO "Lease" (id, "ownerId", kind, "durationS", "startedAt", "endedAt") VALUES ($1, $2, 'bestEffort', 60, $3, $4)`,
      [`lease_${name}`, owner, began, ended],
    );
    await fixture.sql(
      `INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "createdAt", "finishedAt") VALUES ($1, $2, 't', '{}', 'succeeded', $3, $4, $5)`,
      [`task_${name}`, owner, `lease_${name}`, began, ended],
    );
    await endedVm(name, days, { task: `task_${name}`, lease: `lease_${name}` });
  }

  async function endedVm(
    name: string,
    days: number,
    of: { task?: string; lease?: string; neverRan?: boolean } = {},
  ): Promise<void> {
    const [ended, began] = [at(days), at(days + 0.1)];
    await fixture.sql(
      `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "hostId", "homeId", boot, "taskId", node, "leaseId", "createdAt", "endedAt")
       VALUES ($1, $2, 'v', 1, 1, 1, 'removed', 'h1', 'h1', 'warm', $3, $4, $5, $6, $7)`,
      [
        `vm_${name}`,
        owner,
        of.task ?? null,
        of.task === undefined ? null : 0,
        of.lease ?? null,
        began,
        of.neverRan === true ? null : ended,
      ],
    );
    await fixture.sql(
      `INSERT INTO "Migration" (id, "vmId", "ownerId", state, generation, mode, "fromId", "toId", vcpus, "memoryMiB", "requestedBy", "createdAt", "committedAt", "finishedAt")
       VALUES ($1, $2, $3, 'rolledBack', 1, 'live', 'h1', 'h2', 1, 1, 'x', $4, NULL, $5)`,
      [`migration_${name}`, `vm_${name}`, owner, began, ended],
    );
    await fixture.sql(`INSERT INTO "VmStay" ("vmId", generation, "hostId", until) VALUES ($1, 0, 'h1', $2)`, [
      `vm_${name}`,
      ended,
    ]);
    await fixture.sql(`INSERT INTO "VmLoad" ("vmId", at) VALUES ($1, $2)`, [`vm_${name}`, ended]);
  }

  beforeEach(async () => {
    await fixture.sql(
      `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
       SELECT 'h' || n, '192.0.2.' || n, 'site', 'up', 8, 8, 8, 'c', 'kvm', 'q', 'b', now() FROM generate_series(1, 2) n`,
    );
  });

  const left = async () => ({
    tasks: (await fixture.sql('SELECT id FROM "Task" ORDER BY id')).map(({ id }) => id.slice(5)),
    vms: (await fixture.sql('SELECT id FROM "Vm" ORDER BY id')).map(({ id }) => id.slice(3)),
  });
  const rows = async (table: string) => (await fixture.sql(`SELECT 1 FROM "${table}"`)).length;
  const metrics = async () => [
    await readTaskCounts(fixture.ledger),
    await readVmMetrics(fixture.ledger),
    await readMigrationMetrics(fixture.ledger),
  ];

  it('is kept for its time, then removed with all that is its own; metrics count it on', async () => {
    for (const [name, days] of [
      ['a', 40],
      ['b', 31],
      ['c', 29],
    ] as const)
      await endedTask(name, days);
    await endedVm('d', 40);
    await endedVm('e', 29);
    await endedVm('f', 40, { neverRan: true });
    const before = await metrics();
    expect(await keeping({ ended: 30 }).removeExpired()).toEqual({ rows: 4, more: false });
    expect(await left()).toEqual({ tasks: ['c'], vms: ['c', 'e'] });
    for (const table of ['Migration', 'VmStay', 'VmLoad']) expect(await rows(table), table).toBe(2);
    expect(await rows('Lease')).toBe(1);
    expect(await metrics()).toEqual(before);
    expect(await keeping({ ended: 30 }).removeExpired()).toEqual({ rows: 0, more: false });
    expect(await keeping({}).removeExpired()).toEqual({ rows: 0, more: false });
  });

  /** What still means something, and the word that says it. */
  const needs: Record<string, string> = {
    'its log is kept': `INSERT INTO "StoredLog" ("holderId", node, "ownerId", "sizeBytes") VALUES ('task_a', 0, '$o', 1)`,
    'money is held for it': `INSERT INTO "Account" (id, kind, "ownerId", holder, name, currency, "lowerLimit") VALUES ('account_a', 'hold', '$o', '$o', 'task_a', 'EUR', 0)`,
    'money is held for its lease': `INSERT INTO "Account" (id, kind, "ownerId", holder, name, currency, "lowerLimit") VALUES ('account_a', 'hold', '$o', '$o', 'lease_a', 'EUR', 0)`,
    'a host may have something of it': `INSERT INTO "Fence" ("vmId", "hostId", generation, vcpus, "memoryMiB", "diskMiB") VALUES ('vm_a', 'h1', 2, 0, 0, 0)`,
    'an edge may have a port of it': `INSERT INTO "PublishedPort" (id, "ownerId", "vmId", protocol, port, "publicAddress", "publicPort", state) VALUES ('port_a', '$o', 'vm_a', 'tcp', 80, '192.0.2.9', 80, 'removing')`,
    'a migration of it has not ended': `INSERT INTO "Migration" (id, "vmId", "ownerId", state, generation, mode, "fromId", vcpus, "memoryMiB", "requestedBy") VALUES ('migration_x', 'vm_a', '$o', 'stuck', 2, 'live', 'h1', 1, 1, 'x')`,
    'an image was built in it': `INSERT INTO "Image" (id, name, digest, state, recipe, "virtualMiB", cmdline, "sizeBytes", parts, "buildVmId") VALUES ('image_a', 'i', 'd', 'ready', '{}', 1, '', 1, '{}', 'vm_a')`,
    'its lease has not ended': `UPDATE "Lease" SET "endedAt" = NULL WHERE id = 'lease_a'`,
  };
  it.each(Object.keys(needs))('stays while %s', async (name) => {
    await endedTask('a', 40);
    await endedTask('b', 39);
    await fixture.sql(needs[name]!.replaceAll('$o', owner));
    await keeping({ ended: 30 }).removeExpired();
    expect(await left()).toEqual({ tasks: ['a'], vms: ['a'] });
  });

  it('work that goes on keeps its residencies and its past migrations', async () => {
    await endedVm('a', 40);
    await fixture.sql(`UPDATE "Migration" SET "finishedAt" = $1`, [at(40)]);
    await fixture.sql(
      `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "createdAt") VALUES ('vm_live', $1, 'v', 1, 1, 1, 'pending', $2)`,
      [owner, at(400)],
    );
    await fixture.sql(`UPDATE "VmStay" SET "vmId" = 'vm_live'; UPDATE "Migration" SET "vmId" = 'vm_live'`);
    await keeping({ ended: 30 }).removeExpired();
    expect(await left()).toEqual({ tasks: [], vms: ['live'] });
    for (const table of ['Migration', 'VmStay']) expect(await rows(table), table).toBe(1);
  });

  it('goes in steps of some hundreds, by several at once', async () => {
    await fixture.sql(
      `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "createdAt", "endedAt")
       SELECT 'vm_' || i, $1, 'v', 1, 1, 1, 'removed', $2, $2 FROM generate_series(1, 1500) i`,
      [owner, at(40)],
    );
    const removed = await Promise.all([1, 2, 3].map(() => keeping({ ended: 30 }).removeExpired()));
    expect(removed.reduce((sum, { rows }) => sum + rows, 0) + (await keeping({ ended: 30 }).removeExpired()).rows).toBe(1500);
    expect(await rows('Vm')).toBe(0);
  });
});
