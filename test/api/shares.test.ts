import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_LOG_READERS_PER_OWNER: '3', BERTH_PLANS_PER_MINUTE: '5' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());
const task = { image: 'debian-12', command: ['true'] };

describe('what one owner reads', () => {
  test('of logs is a share: another owner reads on, and what has ended is free again', async () => {
    const mine = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: task })).body.id;
    const theirs = (await api.call<TaskBody>(api.bob, 'POST', '/v1/tasks', { json: task })).body.id;
    const headers = { authorization: `Bearer ${api.alice.key}` };
    const followers = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const end = new AbortController();
        const answer = await fetch(new URL(`/v1/tasks/${mine}/log?follow=1`, api.base), { headers, signal: end.signal });
        return { end, answer };
      }),
    );
    expect(followers.map(({ answer }) => answer.status).toSorted()).toEqual([200, 200, 200, 429, 429, 429]);
    expect((await api.fetch(api.bob, 'GET', `/v1/tasks/${theirs}/log`)).status).toBe(200);
    for (const { end } of followers) end.abort();
    await vi.waitFor(async () => expect((await api.fetch(api.alice, 'GET', `/v1/tasks/${mine}/log`)).status).toBe(200));
  });

  test('of plans is so many a minute', async () => {
    const quote = (party = api.alice) => api.call(party, 'POST', '/v1/quotes', { json: { image: 'debian-12' } });
    const answers = [];
    for (let i = 0; i < 4; i += 1) answers.push((await quote()).status);
    answers.push((await api.call(api.alice, 'GET', '/v1/schedule')).status, (await quote()).status);
    expect(answers).toEqual([200, 200, 200, 200, 200, 429]);
    expect((await quote(api.bob)).status).toBe(200);
    expect((await api.call(api.alice, 'POST', '/v1/tasks', { json: task })).status).toBe(202);
  });
});

describe('a large JSON body', () => {
  test("keeps neither another owner's nor this owner's small requests waiting, and is taken in its turn", async () => {
    const large = { ...task, command: ['x'.repeat(30_000)] };
    const post = (json: object, party = api.alice) => api.call(party, 'POST', '/v1/tasks', { json });
    const order: string[] = [];
    const noted = async (name: string, sent: Promise<{ status: number }>) => {
      expect((await sent).status).toBe(202);
      order.push(name);
    };
    const many = Array.from({ length: 8 }, (_, i) => noted(`large ${i}`, post(large)));
    await Promise.all([noted('small', post(task)), noted('other', post(large, api.bob))]);
    expect(order.filter((name) => name.startsWith('large')).length).toBeLessThan(6);
    await Promise.all(many);
  });

  test('that is refused unread is dropped at a bounded pace, and its connection is used again or ends', async () => {
    const { port, hostname } = new URL(api.base);
    const bytes = 3 * 2 ** 20;
    const head = `POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${bytes}\r\n\r\n`;
    const socket = connect(Number(port), hostname);
    let received = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      received += text;
    });
    socket.write(head);
    await vi.waitFor(() => expect(received).toContain('401 Unauthorized'));
    const began = performance.now();
    // Written when the kernel has it.
    await new Promise((resolve) => socket.write(Buffer.alloc(bytes, 'x'), resolve));
    await pause(50);
    socket.write('GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n');
    await vi.waitFor(() => expect(received).toContain('200 OK'), { timeout: 6000 });
    expect(performance.now() - began).toBeGreaterThan(1500);
    socket.destroy();
    // One that ends in between leaves nothing that runs on: the process of these tests would not end.
    const gone = connect(Number(port), hostname);
    gone.write(head);
    gone.write(Buffer.alloc(2 ** 20, 'x'));
    await once(gone, 'data');
    gone.resetAndDestroy();
  });

  test('of a caller that has gone holds no turn', async () => {
    const headers = { authorization: `Bearer ${api.alice.key}`, 'content-type': 'application/json' };
    const gone = new AbortController();
    const stalled = new ReadableStream({ pull: () => new Promise(() => undefined) });
    const init = { method: 'POST', headers, body: stalled, duplex: 'half', signal: gone.signal } as RequestInit;
    const sent = fetch(new URL('/v1/tasks', api.base), init).catch(() => null);
    const waits = api.call(api.alice, 'POST', '/v1/tasks', { json: { ...task, command: ['x'.repeat(30_000)] } });
    gone.abort();
    await sent;
    expect((await waits).status).toBe(202);
  });
});

describe('a JSON body', () => {
  const post = (path: string, body: string) =>
    api.call(api.alice, 'POST', path, { body, headers: { 'content-type': 'application/json' } });
  const timed = async <T>(act: () => Promise<T>) => {
    const began = performance.now();
    return { answer: await act(), ms: performance.now() - began };
  };

  test('of 200,000 wrong fields is refused before it is parsed', async () => {
    const fields = Array.from({ length: 200_000 }, (_, i) => `"f${i}":${i}`).join(',');
    const { answer, ms } = await timed(() => post('/v1/tasks', `{${fields}}`));
    expect([answer.status, answer.body.code]).toEqual([413, 'too-large']);
    expect(answer.text.length).toBeLessThan(1000);
    expect(ms).toBeLessThan(1000);
  });

  test('of 9,000 wrong fields is answered with 50 errors', async () => {
    const body = JSON.stringify({ ...task, ...Object.fromEntries(Array.from({ length: 9000 }, (_, i) => [`f${i}`, i])) });
    const { answer, ms } = await timed(() => post('/v1/tasks', body));
    expect([answer.status, answer.body.errors.length]).toEqual([400, 50]);
    expect(answer.body.errors.at(-1)).toEqual({ pointer: '', detail: 'there are more errors' });
    expect(ms).toBeLessThan(2000);
  });

  test('of 900 wrong inputs as well', async () => {
    const inputs = Array.from({ length: 900 }, (_, i) => ({ path: `${i}`, wrong: i }));
    const { answer, ms } = await timed(() => post('/v1/tasks', JSON.stringify({ ...task, inputs })));
    expect([answer.status, answer.body.errors.length]).toEqual([400, 50]);
    expect(ms).toBeLessThan(2000);
  });

  test.each([
    ['lists', '['.repeat(500_000)],
    ['objects', '{"a":'.repeat(500_000)],
    ['nested well', `${'['.repeat(33)}${']'.repeat(33)}`],
  ])('of deep %s is refused', async (_, body) => {
    const { answer, ms } = await timed(() => post('/v1/tasks', body));
    expect([answer.status, answer.body.code]).toEqual([400, 'bad-request']);
    expect(ms).toBeLessThan(1000);
  });

  test('with brackets and commas in its texts is none of these', async () => {
    const command = ['echo', '[{"'.repeat(5000), '\\",[', ','.repeat(20_000)];
    expect((await post('/v1/tasks', JSON.stringify({ ...task, command }))).status).toBe(202);
  });

  test('of a route that needs little is bounded by that', async () => {
    const json = { image: 'debian-12', more: 'x'.repeat(70_000) };
    expect((await api.call(api.bob, 'POST', '/v1/quotes', { json })).status).toBe(413);
  });
});

describe('a chunked upload', () => {
  async function* chunks(total: number): AsyncIterable<Uint8Array> {
    for (let sent = 0; sent < total; sent += 65_536) yield Buffer.alloc(Math.min(65_536, total - sent), 1);
  }
  const upload = (party: typeof api.alice, bytes: number) =>
    fetch(new URL('/v1/files?name=x', api.base), {
      method: 'POST',
      headers: { authorization: `Bearer ${party.key}` },
      body: ReadableStream.from(chunks(bytes)),
      duplex: 'half',
    } as RequestInit);
  const mib = 2 ** 20;

  test('that fits is not refused for what is claimed ahead of it', async () => {
    const owner = await api.addOwner('chunked', 'client', { maxBytes: BigInt(20 * mib) });
    await api.put(owner, 'first', Buffer.alloc(10 * mib));
    expect((await upload(owner, mib)).status).toBe(201);
    expect((await upload(owner, 9 * mib)).status).toBe(201);
    expect((await upload(owner, 1)).status).toBe(403);
  });

  test('two at once that fit together are both taken', async () => {
    const owner = await api.addOwner('together', 'client', { maxBytes: BigInt(20 * mib) });
    const answers = await Promise.all([upload(owner, 4 * mib), upload(owner, 4 * mib)]);
    expect(answers.map(({ status }) => status)).toEqual([201, 201]);
  });
});
