import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunningApi, startApi } from './running-api.ts';

/** A route to PostgreSQL that can be cut, as an outage appears to the API. */
class Way {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  port = 0;
  #cut = false;

  constructor(to: { host: string; port: number }) {
    this.#server = createServer((from) => {
      if (this.#cut) return void from.destroy();
      const there = connect(to);
      for (const socket of [from, there]) {
        this.#sockets.add(socket);
        socket
          .on('error', () => undefined)
          .on('close', () => {
            from.destroy();
            there.destroy();
          });
      }
      from.pipe(there).pipe(from);
    });
  }

  async open(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.port = (this.#server.address() as { port: number }).port;
  }

  cut(): void {
    this.#cut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend(): void {
    this.#cut = false;
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

let api: RunningApi;
let way: Way;
beforeAll(async () => {
  api = await startApi({}, async (url) => {
    const database = new URL(url);
    way = new Way({ host: database.hostname, port: Number(database.port) });
    await way.open();
    database.hostname = '127.0.0.1';
    database.port = String(way.port);
    return database.href;
  });
});
afterAll(async () => {
  await api.end();
  way.close();
});

test('without its ledger the API reports that, stores nothing, and recovers by itself', async () => {
  expect((await api.call(api.alice, 'GET', '/v1/files')).status).toBe(200);
  way.cut();
  const read = await api.call(api.alice, 'GET', '/v1/files');
  expect([read.status, read.body.code, read.headers.get('retry-after')]).toEqual([503, 'unavailable', '5']);
  const upload = await api.call(api.alice, 'POST', '/v1/files?name=f', { body: 'x' });
  expect([upload.status, upload.body.code]).toEqual([503, 'unavailable']);
  expect((await fetch(new URL('/healthz', api.operatorsBase))).status).toBe(503);
  way.mend();
  expect((await api.call(api.alice, 'POST', '/v1/files?name=f', { body: 'x' })).status).toBe(201);
});
