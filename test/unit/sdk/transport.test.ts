import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { inspect } from 'node:util';
import { afterEach, describe, expect, test } from 'vitest';
import { AnswerLimitError, ApiError, Berth, type ClientOptions, ConnectionError } from '../../../sdk/client.ts';

const opened: Server[] = [];
afterEach(() => {
  for (const server of opened.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

interface Seen {
  method: string;
  url: string;
  key: string | undefined;
  body: string;
  at: number;
}
type Answer = (res: ServerResponse, req: IncomingMessage) => void;

const secret = 'berth_secret_of_a_test';

/** A server that answers each request as the next of `answers` says, the last one for ever, and a client of it. */
async function serve(
  answers: Answer[],
  options: Partial<ClientOptions> = {},
): Promise<{ berth: Berth; seen: Seen[]; url: string }> {
  const seen: Seen[] = [];
  const server = createServer(async (req, res) => {
    const entry = {
      method: req.method!,
      url: req.url!,
      key: req.headers['idempotency-key'] as string,
      body: '',
      at: performance.now(),
    };
    seen.push(entry);
    const answer = answers[Math.min(seen.length, answers.length) - 1]!;
    for await (const chunk of req) entry.body += chunk;
    answer(res, req);
  });
  opened.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { berth: new Berth({ url, apiKey: secret, backoffMs: 10, ...options }), seen, url };
}

const cut: Answer = (res) => res.destroy();
const half: Answer = (res) => {
  res.writeHead(200, { 'content-length': '100' }).write('{"id":');
  setTimeout(() => res.destroy(), 20);
};
const good: Answer = (res) => res.end('{"id":"x"}');
const problem =
  (status: number, code: string, headers: Record<string, string> = {}): Answer =>
  (res) =>
    res.writeHead(status, { 'content-type': 'application/problem+json', ...headers }).end(
      JSON.stringify({
        title: 'Refused',
        status,
        code,
        detail: 'Do it otherwise',
        errors: [{ pointer: '/image', detail: 'x' }],
        requestId: 'r1',
      }),
    );
const post = { method: 'POST', json: { a: 1 } } as const;
async function all(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const read = [];
  for await (const chunk of chunks) read.push(chunk);
  return read;
}
const causeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => null,
    (error: unknown) => error,
  );

describe('a POST', () => {
  test.each<[string, Answer]>([
    ['a connection that is cut', cut],
    ['an answer that breaks off', half],
    ['a 500', problem(500, 'internal')],
    ['a 503', problem(503, 'unavailable')],
    ['an answer that is not JSON', (res) => res.end('<html>')],
  ])('is repeated after %s, with the same Idempotency-Key and body', async (_, bad) => {
    const { berth, seen } = await serve([bad, bad, good]);
    expect(await berth.call('/v1/tasks', post)).toEqual({ id: 'x' });
    expect(seen.map(({ body }) => body)).toEqual(Array(3).fill('{"a":1}'));
    expect(seen[0]!.key).toMatch(/^[\da-f-]{36}$/);
    expect(new Set(seen.map(({ key }) => key)).size).toBe(1);
  });

  test('has another key for another call, or the one that is given', async () => {
    const { berth, seen } = await serve([good]);
    await berth.call('/v1/tasks', post);
    await berth.call('/v1/tasks', post);
    await berth.call('/v1/tasks', { ...post, idempotencyKey: 'mine' });
    expect(new Set(seen.map(({ key }) => key)).size).toBe(3);
    expect(seen[2]!.key).toBe('mine');
  });

  test('waits as Retry-After says', async () => {
    const { berth, seen } = await serve([problem(429, 'rate-limited', { 'retry-after': '1' }), good]);
    await berth.call('/v1/tasks', post);
    expect(seen[1]!.at - seen[0]!.at).toBeGreaterThan(990);
  });

  test('is not repeated when that is too long a wait', async () => {
    const { berth, seen } = await serve([problem(503, 'unavailable', { 'retry-after': '600' })]);
    await expect(berth.call('/v1/tasks', post)).rejects.toMatchObject({ status: 503, retryAfterS: 600 });
    expect(seen).toHaveLength(1);
  });

  test('that is refused is not repeated, and its error says what to do', async () => {
    const { berth, seen } = await serve([problem(400, 'bad-request')]);
    const error = await causeOf(berth.call('/v1/tasks', post));
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({
      status: 400,
      code: 'bad-request',
      detail: 'Do it otherwise',
      message: 'Refused (bad-request): Do it otherwise',
      errors: [{ pointer: '/image', detail: 'x' }],
      requestId: 'r1',
      retryAfterS: null,
    });
    expect(seen).toHaveLength(1);
  });

  test('ends after its attempts', async () => {
    const { berth, seen } = await serve([cut], { attempts: 3 });
    await expect(berth.call('/v1/tasks', post)).rejects.toBeInstanceOf(ConnectionError);
    expect(seen).toHaveLength(3);
  });
});

test('a DELETE is repeated after a 429 alone: it may have succeeded', async () => {
  const { berth, seen } = await serve([problem(429, 'rate-limited'), cut, good]);
  await expect(berth.tasks.cancel('task_1')).rejects.toBeInstanceOf(ConnectionError);
  expect(seen.map(({ method }) => method)).toEqual(['DELETE', 'DELETE']);
});

test('an answer that does not begin in time is requested again', async () => {
  const { berth, seen } = await serve([() => undefined, good], { answerMs: 500 });
  expect(await berth.call('/v1/me')).toEqual({ id: 'x' });
  expect(seen).toHaveLength(2);
});

test('an answer larger than the bound is not held, and not requested again', async () => {
  let ended = false;
  const endless: Answer = (res) => {
    const timer = setInterval(() => res.write(Buffer.alloc(1 << 16)), 1);
    res.once('close', () => {
      clearInterval(timer);
      ended = true;
    });
  };
  const { berth, seen } = await serve([endless], { maxBytes: 1 << 20 });
  await expect(berth.files.bytes('file_1')).rejects.toBeInstanceOf(AnswerLimitError);
  await expect.poll(() => ended).toBe(true);
  expect(seen).toHaveLength(1);
});

test.each<[string, Answer, (berth: Berth, signal: AbortSignal) => Promise<unknown>]>([
  ['a call', () => undefined, (berth, signal) => berth.call('/v1/me', { signal })],
  [
    'a pause before the next attempt',
    problem(503, 'unavailable', { 'retry-after': '60' }),
    (berth, signal) => berth.call('/v1/me', { signal }),
  ],
  ['a wait', (res) => res.end('{"state":"running"}'), (berth, signal) => berth.tasks.wait('task_1', { signal, everyMs: 60_000 })],
  ['a silent log', (res) => void res.write('x'), (berth, signal) => all(berth.tasks.log('task_1', { signal }))],
])('a signal ends %s with its reason', async (_, answer, act) => {
  const { berth, seen } = await serve([answer]);
  const controller = new AbortController();
  const ended = causeOf(act(berth, controller.signal));
  await expect.poll(() => seen.length).toBe(1);
  setTimeout(() => controller.abort(new Error('enough')), 50);
  expect(await ended).toMatchObject({ message: 'enough' });
});

test('a log that breaks off is requested again, and each byte is read once', async () => {
  const log = 'first line\nsecond line\n';
  const until =
    (end: number): Answer =>
    (res) => {
      res.write(log.slice(0, end));
      setTimeout(() => (end === log.length ? res.end() : res.destroy()), 20);
    };
  const { berth, seen } = await serve([until(5), until(12), until(log.length)]);
  const chunks = await all(berth.tasks.log('task_1'));
  expect(Buffer.concat(chunks).toString()).toBe(log);
  expect(seen.map(({ url }) => url)).toEqual(Array(3).fill('/v1/tasks/task_1/log?node=0&follow=1'));
});

test('a log that makes no progress ends with an error', async () => {
  const broken: Answer = (res) => {
    res.write('x');
    setTimeout(() => res.destroy(), 10);
  };
  const { berth } = await serve([broken], { attempts: 3 });
  await expect(all(berth.tasks.log('task_1'))).rejects.toThrow('The stream broke off after 1 bytes');
});

test('the API key is in no error and in no printed client', async () => {
  const { berth } = await serve([cut], { attempts: 1 });
  const errors = [
    await causeOf(berth.call('/v1/me')),
    await causeOf(Promise.resolve().then(() => new Berth({ url: 'http://x', apiKey: `${secret}\n` }))),
  ];
  for (const shown of [berth, ...errors].map((value) => inspect(value, { depth: 10, showHidden: true })))
    expect(shown).not.toContain(secret);
  expect(errors.map((error) => (error as Error).name)).toEqual(['ConnectionError', 'TypeError']);
  expect(() => new Berth({ url: `http://ann:${secret}@x`, apiKey: 'k' })).toThrow(/^`url` must not contain credentials/);
  expect(() => new Berth({ url: `ftp//${secret}`, apiKey: 'k' })).toThrow(/^`url` is not a URL; it is one like/);
});

test('the key is not sent to where an answer redirects', async () => {
  const other = await serve([good]);
  const redirect: Answer = (res) => res.writeHead(307, { location: `${other.url}/` }).end();
  const { berth } = await serve([redirect], { attempts: 1 });
  await expect(berth.call('/v1/me')).rejects.toBeInstanceOf(ConnectionError);
  expect(other.seen).toEqual([]);
});
