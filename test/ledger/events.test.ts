import { readdir, readFile } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { type NewEvent, writeEvent } from '../../ledger/events/write-event.ts';
import { eventData, taskEventTypes } from '../../model/events.ts';
import { addOwner, empty, failure, narrowEvents, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  // A partition has fewer events than are numbered at once.
  await narrowEvents(fixture, 5);
});

const insert = `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ($1, 't', 's', $2, now(), '{}')`;

/** A transaction that writes events, idles for a random time before its end, and commits or rolls back. */
async function write(name: string, count: number, commit: boolean): Promise<void> {
  const client = await fixture.pool.connect();
  try {
    await client.query('BEGIN');
    for (let i = 0; i < count; i += 1) await client.query(insert, [`${name}/${i}`, owner]);
    await client.query('SELECT pg_sleep(random() * 0.005)');
    await client.query(commit ? 'COMMIT' : 'ROLLBACK');
  } finally {
    client.release();
  }
}

const number = () => fixture.sql<{ n: number }>('SELECT berth_number_events(7) AS n');

/** Follows the events with a cursor, as a reader does, until it is stopped; returns the ids that it saw. */
function follow(): { stop: () => Promise<string[]> } {
  const seen: string[] = [];
  let cursor = 0;
  let writing = true;
  const read = async () => {
    await number();
    const rows = await fixture.sql<{ seq: string; id: string }>(
      'SELECT seq, id FROM "Event" WHERE seq > $1 ORDER BY seq LIMIT 3',
      [cursor],
    );
    for (const row of rows) {
      // Nothing between the last one seen and this one is yet to appear.
      expect(Number(row.seq)).toBe(cursor + 1);
      seen.push(row.id);
      cursor = Number(row.seq);
    }
    return rows.length;
  };
  const reading = (async () => {
    while (writing) {
      await read();
      await setImmediate();
    }
    while ((await read()) > 0);
  })();
  return {
    async stop() {
      writing = false;
      await reading;
      return seen;
    },
  };
}

const written = (i: number): number => (i % 7 === 0 ? 0 : 1 + (i % 3));

it('are numbered after their commits: readers with cursors never miss one', async () => {
  const readers = [follow(), follow(), follow()];
  await Promise.all(Array.from({ length: 200 }, (_, i) => write(`w${i}`, 1 + (i % 3), i % 7 !== 0)));
  const seen = await Promise.all(readers.map((reader) => reader.stop()));
  const rows = await fixture.sql<{ id: string }>('SELECT id FROM "Event" ORDER BY seq');
  expect(rows).toHaveLength(Array.from({ length: 200 }, (_, i) => written(i)).reduce((sum, n) => sum + n, 0));
  for (const ids of seen) expect(ids).toEqual(rows.map((row) => row.id));
});

it('are all seen, in order, though the process that numbers them is killed at any moment', async () => {
  const reader = follow();
  let writing = true;
  const kills = (async () => {
    while (writing) {
      const client = await fixture.pool.connect();
      client.on('error', () => undefined);
      try {
        await client.query('BEGIN');
        await client.query('SELECT berth_number_events(7)');
        const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
        await fixture.sql('SELECT pg_terminate_backend($1)', [rows[0]!.pid]);
      } finally {
        client.release(true);
      }
    }
  })();
  await Promise.all(Array.from({ length: 100 }, (_, i) => write(`w${i}`, 1 + (i % 3), i % 7 !== 0)));
  writing = false;
  await kills;
  const seen = await reader.stop();
  expect(seen).toHaveLength(Array.from({ length: 100 }, (_, i) => written(i)).reduce((sum, n) => sum + n, 0));
  expect(new Set(seen).size).toBe(seen.length);
});

it('of a subject are numbered in the order in which they became true', async () => {
  for (const id of ['first', 'second', 'third']) await fixture.sql(insert, [id, owner]);
  await number();
  expect(await fixture.sql('SELECT id, seq::int FROM "Event" ORDER BY seq')).toEqual([
    { id: 'first', seq: 1 },
    { id: 'second', seq: 2 },
    { id: 'third', seq: 3 },
  ]);
});

it('are not held up by a transaction that has written one and does not end', async () => {
  const slow = await fixture.pool.connect();
  try {
    await slow.query('BEGIN');
    await slow.query(insert, ['slow', owner]);
    await fixture.sql(insert, ['quick', owner]);
    await number();
    expect(await fixture.sql('SELECT id, seq::int FROM "Event"')).toEqual([{ id: 'quick', seq: 1 }]);
    await slow.query('COMMIT');
  } finally {
    slow.release();
  }
  await number();
  expect((await fixture.sql('SELECT id FROM "Event" ORDER BY seq')).map((row) => row.id)).toEqual(['quick', 'slow']);
});

it('are committed while the transaction that numbers them has not committed', async () => {
  await fixture.sql(insert, ['before', owner]);
  const numbering = await fixture.pool.connect();
  try {
    await numbering.query('BEGIN');
    await numbering.query('SELECT berth_number_events(7)');
    await fixture.sql(
      `SET statement_timeout = '2s'; ${insert.replace('$1', "'after'").replace('$2', `'${owner}'`)}; RESET statement_timeout`,
    );
    await numbering.query('COMMIT');
  } finally {
    numbering.release();
  }
  await number();
  expect((await fixture.sql('SELECT id FROM "Event" ORDER BY seq')).map((row) => row.id)).toEqual(['before', 'after']);
});

it('of one transaction follow each other as they were written', async () => {
  await fixture.sql(
    `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) SELECT 'e' || i, 't', 's', $1, now(), '{}' FROM generate_series(1, 5) i`,
    [owner],
  );
  await number();
  const rows = await fixture.sql('SELECT id, seq::int AS seq FROM "Event" ORDER BY seq');
  expect(rows).toEqual([1, 2, 3, 4, 5].map((i) => ({ id: `e${i}`, seq: i })));
});

describe('the writer', () => {
  const accepted = (name: string): NewEvent<'berth.task.accepted'> => ({
    type: taskEventTypes.accepted,
    subject: 'task_a',
    owner,
    time: '2026-11-21T10:00:00.000Z',
    data: {
      task: 'task_a',
      name,
      owner,
      image: 'debian-12',
      nodes: 1,
      resources: { vcpus: 1, memoryMiB: 1, diskMiB: 1 },
      acceptedAt: '2026-11-21T10:00:00.000Z',
    },
  });
  const names = async () =>
    (await fixture.sql<{ name: string }>(`SELECT data->>'name' AS name FROM "Event"`)).map(({ name }) => name);

  it('rejects a second event of a fact that is new, with everything else of its transaction', async () => {
    await writeEvent(fixture.ledger, accepted('first'), 'reject');
    const repeat = fixture.ledger.$transaction(async (tx) => {
      await tx.owner.update({ where: { id: owner }, data: { name: 'changed' } });
      await writeEvent(tx, accepted('second'), 'reject');
    });
    expect((await failure(repeat)).message).toContain('23505');
    expect(await names()).toEqual(['first']);
    expect(await fixture.sql('SELECT name FROM "Owner"')).toEqual([{ name: 'alice' }]);
  });

  it('keeps the first event of a step that is repeated, and tells apart those with a number', async () => {
    for (const name of ['first', 'second']) await writeEvent(fixture.ledger, accepted(name), 'ignore');
    await writeEvent(fixture.ledger, { ...accepted('third'), n: 2 }, 'ignore');
    expect((await names()).sort()).toEqual(['first', 'third']);
  });

  it.each(Object.keys(eventData) as (keyof typeof eventData)[])('refuses data of another shape: %s', async (type) => {
    const event = { ...accepted('a'), type, data: { owner, unknown: true } } as unknown as NewEvent<typeof type>;
    for (const onRepeat of ['reject', 'ignore'] as const)
      expect((await failure(writeEvent(fixture.ledger, event, onRepeat))).name).toBe('ZodError');
    expect(await names()).toEqual([]);
  });

  it('is the only one', async () => {
    const writers: string[] = [];
    for (const folder of ['activities', 'api', 'infra', 'ledger', 'workers'])
      for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
        const path = `${entry.parentPath}/${entry.name}`;
        if (!entry.name.endsWith('.ts')) continue;
        if (/INSERT INTO "Event"|\.event\.create|\.event\.upsert/.test(await readFile(path, 'utf8'))) writers.push(path);
      }
    expect(writers).toEqual(['ledger/events/write-event.ts']);
  });
});
