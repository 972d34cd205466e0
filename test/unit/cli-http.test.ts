import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { call, callJson, list, withRetry } from '../../cli/client.ts';
import { BodyError, send } from '../../cli/http.ts';
import { copyLog } from '../../cli/logs.ts';

const opened: Server[] = [];
afterEach(async () => {
  for (const server of opened.splice(0)) {
    if ('closeAllConnections' in server) (server.closeAllConnections as () => void)();
    server.close();
  }
});

async function listen(server: Server): Promise<string> {
  opened.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const serve = (handle: RequestListener): Promise<string> => listen(createServer(handle));

/** Shorter than the silences that must not end a request; even a busy machine connects and answers sooner. */
const shortMs = { connectMs: 1_000, answerMs: 1_000 };

async function* slowly(silenceMs: number): AsyncIterable<Uint8Array> {
  yield Buffer.from('one');
  await pause(silenceMs);
  yield Buffer.from('two');
}

const get = (url: string, timeouts?: Parameters<typeof send>[2]) =>
  send(new URL(url), { method: 'GET', headers: {}, body: null }, timeouts);

describe('a request', () => {
  test('has no time limit for a silent body of its answer', async () => {
    const url = await serve(async (_, res) => {
      res.write('one ');
      await pause(1_500);
      res.end('two');
    });
    const { body } = await get(url, shortMs);
    expect(await text(body)).toBe('one two');
  });

  test('whose answer does not begin in time fails', async () => {
    const url = await serve(() => undefined);
    await expect(get(url, { connectMs: 1_000, answerMs: 50 })).rejects.toThrow('no answer within 0.05 s');
  });

  test('fails when no connection is made in time', async () => {
    // A server that accepts the connection and begins no TLS handshake: without the handshake there is no connection.
    const url = await listen(createTcpServer());
    const attempt = get(url.replace('http:', 'https:'), { connectMs: 50, answerMs: 60_000 });
    await expect(attempt).rejects.toThrow('no connection within 0.05 s');
  });

  test('may take any time to be sent, as a stream of unknown length', async () => {
    let received = 0;
    const url = await serve(async (req, res) => {
      for await (const chunk of req) received += (chunk as Buffer).length;
      res.end(req.headers['transfer-encoding']);
    });
    const { body } = await send(new URL(url), { method: 'POST', headers: {}, body: slowly(1_500) }, shortMs);
    expect([await text(body), received]).toEqual(['chunked', 6]);
  });

  test('does not read a source faster than the server takes it', async () => {
    let read = 0;
    async function* endless(): AsyncIterable<Uint8Array> {
      for (;;) {
        read += 1 << 20;
        yield Buffer.alloc(1 << 20);
      }
    }
    const paused = Promise.withResolvers<IncomingMessage>();
    const url = await serve((req) => paused.resolve(req.pause()));
    const sending = send(new URL(url), { method: 'POST', headers: {}, body: endless() });
    const req = await paused.promise;
    await pause(300);
    expect(read).toBeLessThan(64 << 20);
    req.socket.destroy();
    await expect(sending).rejects.toThrow();
  });

  test('that is refused before its body is sent returns the refusal', async () => {
    const problem = { title: 'Too large', code: 'too-large', detail: 'It has too many bytes', errors: [] };
    const url = await serve((req, res) => {
      res.writeHead(413).end(JSON.stringify(problem));
      req.resume();
    });
    let ended = false;
    async function* endless(): AsyncIterable<Uint8Array> {
      try {
        for (;;) {
          await pause(1);
          yield Buffer.alloc(1 << 16);
        }
      } finally {
        ended = true;
      }
    }
    const sent = call({ api: url, key: 'k' }, '/v1/files', { method: 'POST', body: endless() });
    await expect(sent).rejects.toMatchObject({ status: 413, message: 'Too large (too-large): It has too many bytes' });
    await expect.poll(() => ended).toBe(true);
  });

  test('whose source breaks reports that, not that the API is unreachable', async () => {
    async function* broken(): AsyncIterable<Uint8Array> {
      yield Buffer.from('x');
      throw new Error('the disk is gone');
    }
    const url = await serve((req) => req.resume());
    const options = { method: 'POST', headers: {}, body: broken() };
    await expect(send(new URL(url), options)).rejects.toBeInstanceOf(BodyError);
    await expect(call({ api: url, key: 'k' }, '/', { method: 'POST', body: broken() })).rejects.toThrow(/^the disk is gone$/);
  });
});

test('a JSON answer that breaks off is an API that does not answer, and is requested again', async () => {
  let calls = 0;
  const api = await serve((_, res) => {
    calls += 1;
    if (calls > 1) return res.end('{"done":true}');
    res.writeHead(200, { 'content-length': '100' }).write('{"done"');
    return setTimeout(() => res.destroy(), 20);
  });
  const connection = { api, key: 'k' };
  await expect(callJson(connection, '/')).rejects.toMatchObject({ status: null, message: expect.stringContaining('broke off') });
  calls = 0;
  expect(await withRetry(() => callJson(connection, '/'))).toEqual({ done: true });
});

test('a list is read over as many pages as its limit requires', async () => {
  const requested: (string | null)[][] = [];
  const api = await serve((req, res) => {
    const { searchParams } = new URL(req.url ?? '', 'http://x');
    requested.push([searchParams.get('limit'), searchParams.get('cursor')]);
    const first = Number(searchParams.get('cursor') ?? 0);
    const items = Array.from({ length: 200 }, (_, i) => first + i);
    res.end(JSON.stringify({ items, next: first < 400 ? String(first + 200) : null }));
  });
  expect(await list<number>({ api, key: 'k' }, '/v1/x', {}, 250)).toEqual(Array.from({ length: 250 }, (_, i) => i));
  expect(requested).toEqual([
    ['200', null],
    ['200', '200'],
  ]);
  expect(await list<number>({ api, key: 'k' }, '/v1/x', {}, 10_000)).toHaveLength(600);
});

describe('a log', () => {
  function sink() {
    let written = '';
    const out = new Writable({
      write(chunk, _, done) {
        written += String(chunk);
        done();
      },
    });
    return { out, text: () => written };
  }

  test('that breaks off is requested again, and each byte is written once', async () => {
    const log = 'first line\nsecond line\nthird line\n';
    const ends = [5, 18, 18, log.length];
    let requested = 0;
    const send = (res: ServerResponse, end: number) => {
      res.write(log.slice(0, 3));
      setTimeout(() => {
        res.write(log.slice(3, end));
        setTimeout(() => (end === log.length ? res.end() : res.destroy()), 20);
      }, 20);
    };
    const api = await serve((_, res) => {
      send(res, ends[requested] ?? 0);
      requested += 1;
    });
    const { out, text: written } = sink();
    await copyLog({ api, key: 'k' }, '/log', out, 10);
    expect([written(), requested]).toEqual([log, 4]);
  });

  test('that makes no progress ends the command', async () => {
    const api = await serve((_, res) => {
      res.write('x');
      setTimeout(() => res.destroy(), 10);
    });
    await expect(copyLog({ api, key: 'k' }, '/log', sink().out, 10)).rejects.toThrow('The log broke off after 1 bytes');
  });
});
