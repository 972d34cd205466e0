import { setImmediate } from 'node:timers/promises';
import { beforeEach, expect, it } from 'vitest';
import { addOwner, empty, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
});

const insert = `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ($1, 't', 's', $2, now(), '{}')`;

/** A transaction that writes events, idles for as long as it likes with them uncommitted, and may end in nothing. */
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

it('wait for an earlier one that is not committed yet', async () => {
  const first = await fixture.pool.connect();
  try {
    await first.query('BEGIN');
    await first.query(insert, ['first', owner]);
    const second = fixture.sql(insert, ['second', owner]);
    // Until the second one is seen to wait for the lock, its outcome says nothing.
    for (let waiting = 0; waiting === 0; )
      waiting = (
        await fixture.sql(`SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`)
      ).length;
    expect(await fixture.sql('SELECT 1 FROM "Event"')).toEqual([]);
    await first.query('COMMIT');
    await second;
  } finally {
    first.release();
  }
  expect((await fixture.sql('SELECT id FROM "Event" ORDER BY seq')).map((row) => row.id)).toEqual(['first', 'second']);
});
