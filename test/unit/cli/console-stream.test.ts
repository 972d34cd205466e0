import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type WebSocket, WebSocketServer } from 'ws';
import { ConsoleStream } from '../../../cli/streams/console-stream.ts';

/** An API of which a test decides when it is there. */
let api: WebSocketServer;
let port: number;
let connections: { socket: WebSocket; query: URLSearchParams; typed: string }[];

function listen(at: number): WebSocketServer {
  const server = new WebSocketServer({ port: at, host: '127.0.0.1', handleProtocols: () => 'v1.stream.berth' });
  server.on('connection', (socket, request) => {
    const connection = { socket, query: new URL(request.url!, 'http://api').searchParams, typed: '' };
    connections.push(connection);
    socket.on('message', (data: Buffer) => {
      if (data[0] === 0) connection.typed += String(data.subarray(1));
    });
    socket.send(Buffer.from('\u0005{"place":"host1.1.1:7"}'));
  });
  return server;
}

beforeEach(async () => {
  connections = [];
  api = listen(0);
  await once(api, 'listening');
  ({ port } = api.address() as AddressInfo);
});
afterEach(() => {
  for (const { socket } of connections) socket.terminate();
  api.close();
});

function open(write: boolean) {
  const reports: boolean[] = [];
  const stream = new ConsoleStream(
    { api: `http://127.0.0.1:${port}`, key: 'key' },
    { vm: 'web', tailBytes: 0, write, onOutput: async () => undefined, onWriting: (writing) => reports.push(writing) },
  );
  return { stream, reports, ended: stream.run() };
}

async function loseConnection(): Promise<void> {
  const closed = new Promise((resolve) => api.close(resolve));
  for (const { socket } of connections) socket.terminate();
  await closed;
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 100));

test('what is typed while the connection to the API is lost is sent once, over the next one', async () => {
  const { stream, ended } = open(true);
  await expect.poll(() => connections.length).toBe(1);
  await settle();
  stream.type(Buffer.from('before '));
  await expect.poll(() => connections[0]?.typed).toBe('before ');
  await loseConnection();
  await settle();
  stream.type(Buffer.from('mean'));
  stream.type(Buffer.from('while'));
  stream.type(Buffer.alloc(64 * 1024, 'x'));
  api = listen(port);
  await expect.poll(() => connections[1]?.typed, { timeout: 10_000 }).toBe('meanwhile');
  expect(connections[1]?.query.get('place')).toBe('host1.1.1:7');
  stream.type(Buffer.from(' after'));
  await expect.poll(() => connections[1]?.typed).toBe('meanwhile after');
  stream.close();
  await ended;
});

test('what is typed is not kept for a keyboard that another client has', async () => {
  const { stream, reports, ended } = open(true);
  await expect.poll(() => connections.length).toBe(1);
  connections[0]!.socket.send(Buffer.from('\u0005{"writing":false}'));
  await expect.poll(() => reports).toEqual([false]);
  await loseConnection();
  await settle();
  stream.type(Buffer.from('not kept'));
  api = listen(port);
  await expect.poll(() => connections[1]?.query.get('write'), { timeout: 10_000 }).toBe('false');
  await settle();
  stream.type(Buffer.from('dropped by the API'));
  await expect.poll(() => connections[1]?.typed).toBe('dropped by the API');
  stream.close();
  await ended;
});

test('the reason for which the API ends it is told', async () => {
  const { ended } = open(false);
  await expect.poll(() => connections.length).toBe(1);
  connections[0]!.socket.close(1000, 'nothing came from either end for 1 s');
  await expect(ended).rejects.toThrow('The API has ended the connection: nothing came from either end for 1 s');
});
