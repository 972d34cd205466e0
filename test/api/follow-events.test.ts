import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Page, type Party, type RunningApi, startApi } from './running-api.ts';

interface EventBody {
  id: string;
  type: string;
  owner: string;
  sequence: string;
}

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_LOG_READERS_PER_OWNER: '3' });
});
afterAll(() => api.end());

let written = 0;
async function happen(party: Party, type = 'berth.task.succeeded'): Promise<string> {
  written += 1;
  const id = `task_${written}/${type}`;
  await api.ledger.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${id}, ${type}, ${`task_${written}`}, ${party.ownerId}, now(), '{}')`;
  return id;
}

const wait = (party: Party, query: string) =>
  api.call<Page<EventBody> & { next: string; code?: string }>(party, 'GET', `/v1/events?${query}`);
const cursor = async (party: Party) => (await wait(party, 'type=none')).body.next;

/** A stream's blocks, each with its fields. */
async function* blocks(response: Response): AsyncGenerator<Record<string, string>> {
  let text = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const whole = text.split('\n\n');
    text = whole.pop()!;
    for (const block of whole)
      yield Object.fromEntries(
        block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
      );
  }
}

const stream = (party: Party, headers: Record<string, string> = {}, query = '') =>
  fetch(`${api.base}/v1/events${query}`, {
    headers: { authorization: `Bearer ${party.key}`, accept: 'text/event-stream', ...headers },
  });

async function take(response: Response, count: number): Promise<Record<string, string>[]> {
  const taken: Record<string, string>[] = [];
  for await (const block of blocks(response)) {
    if (block.data !== undefined) taken.push(block);
    if (taken.length === count) return taken;
  }
  throw new Error(`the stream ended after ${taken.length} events`);
}

test('a reader that waits is answered with the event when it happens, and with none when nothing does', async () => {
  const after = await cursor(api.alice);
  const waiting = wait(api.alice, `after=${after}&wait=20`);
  await pause(300);
  await happen(api.bob);
  await happen(api.alice, 'berth.task.failed');
  const began = performance.now();
  const id = await happen(api.alice);
  const first = (await waiting).body;
  expect(performance.now() - began).toBeLessThan(2000);
  expect(first.items.map(({ owner }) => owner)).not.toContain(api.bob.ownerId);
  const rest = (await wait(api.alice, `after=${first.next}&wait=1`)).body.items;
  expect([...first.items, ...rest].at(-1)!.id).toBe(id);
  const none = await wait(api.alice, `after=${await cursor(api.alice)}&wait=0.4`);
  expect([none.status, none.body.items]).toEqual([200, []]);
  const typed = wait(api.alice, `after=${await cursor(api.alice)}&wait=20&type=berth.vm.created`);
  await pause(200);
  await happen(api.alice);
  const wanted = await happen(api.alice, 'berth.vm.created');
  expect((await typed).body.items.map((event) => event.id)).toEqual([wanted]);
  for (const wrong of ['-1', '61', 'long', 'NaN']) expect((await wait(api.alice, `wait=${wrong}`)).status).toBe(400);
});

test('a stream has every event once, goes on after its last id, and begins where a cursor says', async () => {
  const from = await cursor(api.alice);
  const ids = [await happen(api.alice), await happen(api.alice)];
  const first = await stream(api.alice, {}, `?after=${from}`);
  expect(first.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  const taking = take(first, 4);
  await pause(300);
  await happen(api.bob);
  ids.push(await happen(api.alice), await happen(api.alice));
  const taken = await taking;
  expect(taken.map(({ data }) => (JSON.parse(data!) as EventBody).id)).toEqual(ids);
  expect(taken.map(({ id, data }) => [id, (JSON.parse(data!) as EventBody).sequence]).every(([a, b]) => a === b)).toBe(true);
  expect(taken[0]!.event).toBe('berth.task.succeeded');
  const second = await stream(api.alice, { 'last-event-id': taken[1]!.id! }, '?after=0');
  expect((await take(second, 2)).map(({ id }) => id)).toEqual(taken.slice(2).map(({ id }) => id));
  for (const wrong of ['x', '-1', '99999999999999999999'])
    expect((await stream(api.alice, { 'last-event-id': wrong })).status).toBe(400);
});

test('a stream of an idle owner moves its last id past what is not for it', async () => {
  await happen(api.bob);
  const response = await stream(api.alice, {}, `?after=${await cursor(api.alice)}`);
  for await (const block of blocks(response)) {
    expect(block).toEqual({ id: await cursor(api.alice) });
    return;
  }
});

test('an owner follows so much at a time, whatever another does', async () => {
  await pause(500);
  const after = await cursor(api.alice);
  const streams = [await stream(api.alice, {}, `?after=${after}`), await stream(api.alice, {}, `?after=${after}`)];
  const waiting = wait(api.alice, `after=${after}&wait=3`);
  await pause(300);
  const refused = await wait(api.alice, `after=${after}&wait=3`);
  expect([refused.status, refused.body.code]).toEqual([429, 'rate-limited']);
  expect((await stream(api.alice)).status).toBe(429);
  // What is there needs no share.
  expect((await wait(api.alice, 'after=0&wait=3')).body.items.length).toBeGreaterThan(0);
  expect((await wait(api.bob, `after=${await cursor(api.bob)}&wait=0.2`)).status).toBe(200);
  for (const one of streams) await one.body!.cancel();
  await waiting;
  await expect.poll(async () => (await wait(api.alice, `after=${after}&wait=0.1`)).status).toBe(200);
});

test('a key that is revoked ends what follows by it within two seconds', async () => {
  const carol = await api.addOwner('carol', 'client');
  const after = await cursor(carol);
  const response = await stream(carol, {}, `?after=${after}`);
  const waiting = wait(carol, `after=${after}&wait=50`).then(
    () => 'answered',
    () => 'ended',
  );
  const ended = (async () => {
    try {
      for await (const _ of blocks(response));
    } catch {
      // A connection that is cut is an error of the body.
    }
  })();
  await pause(300);
  const began = performance.now();
  await api.ledger.apiKey.update({ where: { id: carol.keyId }, data: { revokedAt: new Date() } });
  await ended;
  expect(await waiting).toBe('ended');
  expect(performance.now() - began).toBeLessThan(2000);
});

test('a cursor that has expired is refused before a stream begins', async () => {
  await api.ledger.$executeRaw`UPDATE "EventLog" SET floor = 2`;
  const response = await stream(api.alice, { 'last-event-id': '1' });
  expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([410, 'cursor-expired']);
});
