import { readdir, readFile } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { type NewEvent, writeEvent } from '../../ledger/events/write-event.ts';
import { eventData, taskEventTypes } from '../../model/events.ts';
import { addOwner, empty, failure, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
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

it('are numbered in the order of their commits: a reader with a cursor never misses one', async () => {
  const seen: string[] = [];
  let cursor = 0;
  let writing = true;
  const read = async () => {
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
  const reader = (async () => {
    while (writing) {
      await read();
      await setImmediate();
    }
    while ((await read()) > 0);
  })();
  const writers = Array.from({ length: 200 }, (_, i) => write(`w${i}`, 1 + (i % 3), i % 7 !== 0));
  await Promise.all(writers);
  writing = false;
  await reader;
  const rows = await fixture.sql<{ id: string }>('SELECT id FROM "Event" ORDER BY seq');
  const expected = Array.from({ length: 200 }, (_, i) => (i % 7 === 0 ? 0 : 1 + (i % 3))).reduce((sum, n) => sum + n, 0);
  expect(seen).toEqual(rows.map((row) => row.id));
  expect(seen).toHaveLength(expected);
});

it('are not held up by a transaction that has written one and does not end', async () => {
  const slow = await fixture.pool.connect();
  try {
    await slow.query('BEGIN');
    await slow.query(insert, ['slow', owner]);
    await fixture.sql(insert, ['quick', owner]);
    expect(await fixture.sql('SELECT id, seq::int FROM "Event"')).toEqual([{ id: 'quick', seq: 1 }]);
    await slow.query('COMMIT');
  } finally {
    slow.release();
  }
  expect((await fixture.sql('SELECT id FROM "Event" ORDER BY seq')).map((row) => row.id)).toEqual(['quick', 'slow']);
});

it('of one transaction follow each other as they were written', async () => {
  await fixture.sql(
    `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) SELECT 'e' || i, 't', 's', $1, now(), '{}' FROM generate_series(1, 5) i`,
    [owner],
  );
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
