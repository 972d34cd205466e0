import { CloudEvent } from 'cloudevents';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Page, type Party, type RunningApi, startApi } from './running-api.ts';

interface EventBody {
  id: string;
  type: string;
  subject: string;
  owner: string;
  sequence: string;
  specversion: string;
  data: unknown;
}

let api: RunningApi;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
});
afterAll(() => api.end());

const submit = (party: Party) => api.call(party, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'] } });
const read = async (party: Party, query = '') => {
  const { status, body } = await api.call<Page<EventBody> & { next: string; oldest: string; retentionDays: number | null }>(
    party,
    'GET',
    `/v1/events${query}`,
  );
  expect(status).toBe(200);
  return body;
};

function insert(id: string, party: Party, type = 'berth.task.succeeded'): [string, unknown[]] {
  return [
    `INSERT INTO "Event" ("id", "type", "subject", "ownerId", "time", "data") VALUES ($1, $2, 'task_x', $3, now(), '{"n": 1}')`,
    [id, type, party.ownerId],
  ];
}

test('an event is a CloudEvent', async () => {
  await submit(api.alice);
  const { items } = await read(api.alice);
  expect(items).toHaveLength(1);
  expect(items[0]).toMatchObject({ specversion: '1.0', type: 'berth.task.accepted', source: '/berth', owner: api.alice.ownerId });
  expect(() => new CloudEvent({ ...items[0]!, source: '/berth' }).validate()).not.toThrow();
});

test('a client reads its own, an operator all, each in order', async () => {
  await submit(api.bob);
  await submit(api.alice);
  expect(new Set((await read(api.bob)).items.map(({ owner }) => owner))).toEqual(new Set([api.bob.ownerId]));
  const all = (await read(api.operator)).items;
  expect(new Set(all.map(({ owner }) => owner)).size).toBe(2);
  const sequence = all.map((event) => Number(event.sequence));
  expect(sequence).toEqual(sequence.toSorted((a, b) => a - b));
});

test('a reader that continues from `next` sees each event once, also one written after it had seen all', async () => {
  const seen: string[] = [];
  let after = '0';
  for (;;) {
    const page = await read(api.operator, `?after=${after}&limit=1`);
    after = page.next;
    if (page.items.length === 0) break;
    seen.push(...page.items.map(({ id }) => id));
  }
  expect(new Set(seen).size).toBe(seen.length);
  expect((await read(api.operator, `?after=${after}`)).next).toBe(after);
  await submit(api.alice);
  expect((await read(api.operator, `?after=${after}`)).items).toHaveLength(1);
});

test('the cursor never passes an event whose transaction is still open', async () => {
  const reader = await api.addOwner('reader', 'client');
  const [slow, fast] = [
    new pg.Client({ connectionString: api.databaseUrl }),
    new pg.Client({ connectionString: api.databaseUrl }),
  ];
  await Promise.all([slow.connect(), fast.connect()]);
  await slow.query('BEGIN');
  await slow.query(...insert('slow', reader));
  // It does not wait for the other, and gets the number before.
  await fast.query(...insert('fast', reader));
  const { next, items } = await read(reader);
  expect(items.map(({ id }) => id)).toEqual(['fast']);
  await slow.query('COMMIT');
  expect((await read(reader, `?after=${next}`)).items.map(({ id }) => id)).toEqual(['slow']);
  await Promise.all([slow.end(), fast.end()]);
});

test('many writers and a reader: nothing is skipped, nothing is seen twice', async () => {
  const busy = await api.addOwner('busy', 'client');
  const seen: string[] = [];
  let done = false;
  const reading = (async () => {
    let after = '0';
    for (let last = false; !last; ) {
      last = done;
      const page = await read(busy, `?after=${after}&limit=7`);
      seen.push(...page.items.map(({ id }) => id));
      after = page.next;
      if (page.items.length > 0) last = false;
    }
  })();
  const pool = new pg.Pool({ connectionString: api.databaseUrl, max: 8 });
  const ids = Array.from({ length: 120 }, (_, i) => `busy-${i}`);
  await Promise.all(ids.map((id) => pool.query(...insert(id, busy))));
  done = true;
  await reading;
  await pool.end();
  expect(seen.toSorted()).toEqual(ids.toSorted());
});

test('a cursor whose events are kept no more is refused, and the answer says what is kept', async () => {
  const reader = await api.addOwner('late', 'client');
  const client = new pg.Client({ connectionString: api.databaseUrl });
  await client.connect();
  await client.query(...insert('kept', reader));
  const { next, oldest, retentionDays } = await read(reader);
  expect({ oldest, retentionDays }).toEqual({ oldest: '0', retentionDays: null });
  // As the housekeeping states it.
  await client.query('UPDATE "EventLog" SET floor = $1, "retentionDays" = 90', [Number(next) - 1]);
  await client.end();
  const refused = await api.call<{ code: string; detail: string }>(reader, 'GET', '/v1/events?after=0');
  expect(refused).toMatchObject({ status: 410, body: { code: 'cursor-expired' } });
  expect(refused.body.detail).toContain(`go on after ${Number(next) - 1}`);
  for (const query of ['', `?after=${Number(next) - 1}`])
    expect(await read(reader, query)).toMatchObject({
      items: [{ id: 'kept' }],
      next,
      oldest: String(Number(next) - 1),
      retentionDays: 90,
    });
});

test('a type filters', async () => {
  const typed = await api.addOwner('typed', 'client');
  const client = new pg.Client({ connectionString: api.databaseUrl });
  await client.connect();
  await client.query(...insert('one', typed, 'berth.task.failed'));
  await client.query(...insert('two', typed, 'berth.task.succeeded'));
  await client.end();
  expect((await read(typed, '?type=berth.task.failed')).items.map(({ id }) => id)).toEqual(['one']);
  expect((await read(typed, '?type=berth.task.cancelled')).items).toEqual([]);
});

test.each([
  'after=-1',
  'after=x',
  'after=99999999999999999999',
  'after=9223372036854775808',
  'limit=1001',
  'type=%27',
  'cursor=1',
])('%s is refused', async (query) => {
  expect((await api.call(api.alice, 'GET', `/v1/events?${query}`)).status).toBe(400);
});
