import { once } from 'node:events';
import { createServer as createHttp, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import type { WebhookAttempt } from '../../../../drivers/ports/webhook-endpoint.ts';
import type { ResolveHost } from '../../../../drivers/transfer/pinned-lookup.ts';
import { webhookEndpoints } from '../../../../drivers/webhooks/endpoint.ts';
import { newWebhookSecret, webhookKeyOf } from '../../../../model/webhooks/signature.ts';

const message = { id: 'msg_1', body: '{"type":"berth.webhook.test"}' };
const keys = [webhookKeyOf(newWebhookSecret())!];
const never = new AbortController().signal;
const timeoutMs = 1500;

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function listening(server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  closing.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const http = (handle: (req: IncomingMessage, res: ServerResponse) => void) =>
  listening(
    createHttp((req, res) => {
      req.resume();
      handle(req, res);
    }),
  );

/** A receiver of raw bytes. */
const raw = (handle: (socket: Socket) => void) => listening(createServer((socket) => socket.once('data', () => handle(socket))));

async function post(url: string, options: { allowInternal?: boolean; resolve?: ResolveHost } = {}): Promise<WebhookAttempt> {
  const endpoint = webhookEndpoints({ allowInternal: true, timeoutMs, ...options })(url);
  try {
    return await endpoint.send(message, keys, never);
  } finally {
    await endpoint.close();
  }
}

describe('an address', () => {
  const internal = ['127.0.0.1', '10.0.0.1', '169.254.169.254', '192.168.1.1', '0.0.0.0', '100.64.0.1'];
  it('that is not public is refused, in the URL and of a name, also one of several', async () => {
    for (const address of internal) {
      expect(await post(`http://${address}/`, { allowInternal: false })).toMatchObject({ status: null });
      const resolve: ResolveHost = async () => [
        { address: '93.184.216.34', family: 4 },
        { address, family: 4 },
      ];
      const { status, error } = await post('http://two.example/', { allowInternal: false, resolve });
      expect([address, status, error]).toEqual([address, null, `two.example leads to ${address}, which is not a public address`]);
    }
    for (const address of ['[::1]', '[::ffff:127.0.0.1]', '[fd00::1]', '[fe80::1]', '2130706433', '0x7f.1', '0177.0.0.1'])
      expect((await post(`http://${address}/`, { allowInternal: false })).error).toContain('not a public address');
  });

  it('is resolved once for a connection: a name that leads elsewhere the second time leads nowhere else', async () => {
    const taken: string[] = [];
    const at = await http((req, res) => {
      taken.push(req.headers.host ?? '');
      res.end();
    });
    let resolutions = 0;
    const resolve: ResolveHost = async () => {
      resolutions += 1;
      return [{ address: resolutions === 1 ? '127.0.0.1' : '192.0.2.1', family: 4 }];
    };
    const endpoint = webhookEndpoints({ allowInternal: true, timeoutMs, resolve })(
      `http://rebinding.example:${at.split(':')[1]}/`,
    );
    for (let n = 0; n < 3; n += 1) expect(await endpoint.send(message, keys, never)).toMatchObject({ status: 200, error: null });
    await endpoint.close();
    expect(resolutions).toBe(1);
    expect(taken).toEqual(Array(3).fill(`rebinding.example:${at.split(':')[1]}`));
  });

  it('of a name server that is silent ends with the attempt', async () => {
    const began = performance.now();
    const attempt = await post('http://silent.example/', { resolve: () => new Promise(() => undefined) });
    expect(attempt).toMatchObject({ status: null, error: 'no answer within 1.5 s' });
    expect(performance.now() - began).toBeLessThan(timeoutMs + 1000);
  });
});

describe('an answer', () => {
  it('of 2xx takes the event, any other does not', async () => {
    for (const [status, error] of [
      [200, null],
      [204, null],
      [299, null],
      [400, 'it answered 400'],
      [410, 'it answered 410'],
      [500, 'it answered 500'],
    ] as const) {
      const at = await http((_req, res) => res.writeHead(status).end());
      expect(await post(`http://${at}/`)).toMatchObject({ status, error });
    }
  });

  it('that redirects, also to itself, is not followed', async () => {
    let requests = 0;
    const at = await http((_req, res) => {
      requests += 1;
      res.writeHead(307, { location: '/' }).end();
    });
    expect(await post(`http://${at}/`)).toMatchObject({ status: 307, error: 'it answered 307; redirects are not followed' });
    expect(requests).toBe(1);
  });

  it('that asks for a pause is told', async () => {
    const at = await http((_req, res) => res.writeHead(503, { 'retry-after': '30' }).end());
    expect(await post(`http://${at}/`)).toMatchObject({ status: 503, retryAfterS: 30 });
  });

  it('that comes byte by byte, or not at all, ends with the time-out', async () => {
    const dripping = await raw((socket) => {
      const text = `HTTP/1.1 200 OK\r\nX-Long: ${'a'.repeat(5000)}\r\n\r\n`;
      let sent = 0;
      const timer = setInterval(() => socket.write(text[sent++] ?? ''), 20);
      socket.once('close', () => clearInterval(timer));
    });
    const silent = await raw(() => undefined);
    for (const at of [dripping, silent]) {
      const attempt = await post(`http://${at}/`);
      expect(attempt).toMatchObject({ status: null, error: 'no answer within 1.5 s' });
      expect(attempt.ms).toBeLessThan(timeoutMs + 1000);
    }
  });

  it('whose body does not end, or is huge, costs its connection alone', async () => {
    const endless = await http((_req, res) => {
      res.writeHead(200);
      const chunk = Buffer.alloc(64 * 1024);
      const more = () => {
        while (!res.destroyed && res.write(chunk));
      };
      res.on('drain', more);
      more();
    });
    const slow = await http((_req, res) => void res.writeHead(200).write('a'));
    const bomb = gzipSync(Buffer.alloc(50 * 2 ** 20));
    const compressed = await http((req, res) => {
      expect(req.headers['accept-encoding']).toBe('identity');
      res.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb);
    });
    for (const at of [endless, slow, compressed]) {
      const attempt = await post(`http://${at}/`);
      expect(attempt).toMatchObject({ status: 200, error: null });
      expect(attempt.ms).toBeLessThan(2500);
    }
  });

  it('with a head without end, or a flood of 1xx, is no answer', async () => {
    const long = await raw((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const more = () => {
        while (!socket.destroyed && socket.write(`X-More: ${'a'.repeat(1000)}\r\n`));
      };
      socket.on('drain', more);
      more();
    });
    expect(await post(`http://${long}/`)).toMatchObject({ status: null, error: expect.not.stringContaining('no answer') });
    const interim = 'HTTP/1.1 102 Processing\r\n\r\n';
    const end = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n';
    const flood = (count: number) => raw((socket) => socket.write(`${interim.repeat(count)}${end}`));
    expect(await post(`http://${await flood(8)}/`)).toMatchObject({ status: 200, error: null });
    expect(await post(`http://${await flood(9)}/`)).toMatchObject({ status: null, error: 'it answers 1xx again and again' });
    const endless = await raw((socket) => {
      const more = () => {
        while (!socket.destroyed && socket.write(interim));
      };
      socket.on('drain', more);
      more();
    });
    expect(await post(`http://${endless}/`)).toMatchObject({ status: null });
  });

  it('that is no HTTP is told in few words, without what a receiver writes of passwords', async () => {
    const odd = await raw((socket) => socket.end(`hello https://user:secret@example.net ${'x'.repeat(5000)}\r\n\r\n`));
    const { error } = await post(`http://${odd}/`);
    expect(error!.length).toBeLessThanOrEqual(200);
    expect(error).not.toContain('secret');
  });
});

it('a request has the headers of Standard Webhooks and no other of the caller, and a connection serves several', async () => {
  const seen: IncomingMessage[] = [];
  const sockets = new Set<Socket>();
  const at = await http((req, res) => {
    seen.push(req);
    sockets.add(req.socket);
    res.end('taken');
  });
  const endpoint = webhookEndpoints({ allowInternal: true, timeoutMs })(`http://${at}/hook?token=1`);
  for (let n = 0; n < 5; n += 1) await endpoint.send(message, keys, never);
  await endpoint.close();
  expect(sockets.size).toBe(1);
  expect(Object.keys(seen[0]!.headers).toSorted()).toEqual(
    ['accept-encoding', 'connection', 'content-length', 'content-type', 'host', 'user-agent'].concat([
      'webhook-id',
      'webhook-signature',
      'webhook-timestamp',
    ]),
  );
  expect([seen[0]!.method, seen[0]!.url]).toEqual(['POST', '/hook?token=1']);
});

it('an attempt that is cancelled rejects at once', async () => {
  const at = await raw(() => undefined);
  const cancelling = new AbortController();
  const endpoint = webhookEndpoints({ allowInternal: true, timeoutMs: 60_000 })(`http://${at}/`);
  const attempt = endpoint.send(message, keys, cancelling.signal);
  setTimeout(() => cancelling.abort(new Error('cancelled by the test')), 50);
  await expect(attempt).rejects.toThrow('cancelled by the test');
  await endpoint.close();
});
