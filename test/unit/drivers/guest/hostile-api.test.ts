import { once } from 'node:events';
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type WebSocket, WebSocketServer } from 'ws';
import type { StreamOrder } from '../../../../contracts/stream.ts';
import { encodePortFrame, PortReader } from '../../../../drivers/guest/streams/port-framing.ts';
import { openStreams } from '../../../../drivers/guest/streams/streams.ts';
import { encodeGuestFrame, encodeHostFrame, parseHostFrame, type StreamRequest } from '../../../../model/streams/frames.ts';

/** A host worker's end of sessions and consoles. What is thrown in a listener ends its process: here it fails the run. */
let folder: string;
let api: WebSocketServer;
let guest: Server;
/** What the guest's program has been sent, by the type of its frames. */
let taken: string[];
let guestSockets: Socket[];
let streams: ReturnType<typeof openStreams>;
let logged: string[];
const paths = () => ({
  streamSocket: join(folder, 'stream'),
  console: join(folder, 'console.log'),
  consoleSocket: join(folder, 'tty'),
});

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-hostile-'));
  [taken, guestSockets, logged] = [[], [], []];
  writeFileSync(paths().console, '');
  // It greets, and takes what comes.
  guest = createServer((socket) => {
    guestSockets.push(socket);
    const reader = new PortReader();
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      for (const body of reader.push(chunk)) {
        if (body[0] === 'H'.charCodeAt(0)) {
          socket.write(encodePortFrame(Buffer.concat([Buffer.from('h'), body.subarray(1, 9), Buffer.from([1])])));
          continue;
        }
        taken.push(parseHostFrame(body)?.type ?? 'none');
        if (taken.at(-1) === 'open')
          socket.write(
            encodePortFrame(
              encodeGuestFrame(body.subarray(1, 17).toString('hex'), {
                type: 'attached',
                input: 0,
                signals: 0,
                first: 0,
                last: 0,
              }),
            ),
          );
      }
    });
  }).listen(paths().streamSocket);
  api = new WebSocketServer({ port: 0 });
  await once(api, 'listening');
  streams = openStreams({
    agent: { exec: async () => ({ exitCode: 0, stdout: 'é'.repeat(10), stderr: '' }) },
    host: 'host1',
    pathsOf: paths,
    consoleHistory: { arrived: async () => undefined },
    channelState: async (domain) => (domain === 'old' ? 'absent' : 'connected'),
    apiUrl: `http://127.0.0.1:${(api.address() as { port: number }).port}`,
    log: pino({}, { write: (line: string) => void logged.push(line) }),
  });
});
afterEach(() => {
  streams.close();
  for (const socket of guestSockets) socket.destroy();
  for (const socket of api.clients) socket.terminate();
  api.close();
  guest.close();
  rmSync(folder, { recursive: true });
  expect(logged.filter((line) => line.includes('was not handled'))).toEqual([]);
});

interface ApiEnd {
  socket: WebSocket;
  received: Buffer[];
  closed: Promise<{ code: number; reason: string }>;
}

/** The API's end of a connection that the host has made for an order. */
async function order(domain: string, more: Partial<StreamOrder> = {}): Promise<ApiEnd> {
  const connected = once(api, 'connection').then(([socket]) => {
    const received: Buffer[] = [];
    (socket as WebSocket).on('message', (data: Buffer) => received.push(data));
    (socket as WebSocket).on('error', () => undefined);
    const closed = new Promise<{ code: number; reason: string }>((resolve) =>
      (socket as WebSocket).once('close', (code, reason) => resolve({ code, reason: String(reason) })),
    );
    return { socket: socket as WebSocket, received, closed };
  });
  await streams.open(domain, { id: '1', url: null, token: 't', owner: 'owner_1', needsProgram: false, ...more });
  return connected;
}

const session = 'ab'.repeat(16);
const request: StreamRequest = {
  kind: 'pipes',
  size: { rows: 24, cols: 80 },
  timeoutS: 0,
  folder: '/',
  env: [],
  argv: ['id'],
};
const opens = (of = session): Buffer => encodeHostFrame(of, { type: 'open', request });

/** Another client's session on the same host, which has to go on. */
async function expectOthersGoOn(beside: ApiEnd): Promise<void> {
  const before = beside.received.length;
  beside.socket.send(opens('cd'.repeat(16)));
  await expect.poll(() => beside.received.length).toBeGreaterThan(before);
  expect(beside.socket.readyState).toBe(beside.socket.OPEN);
}

function sendAll(socket: WebSocket, bodies: Buffer[]): void {
  for (const body of bodies) socket.send(body);
}
const rawFrame = (first: number): Buffer => Buffer.from([first, 1, 0]);
const rawOf = (socket: WebSocket): Socket => Reflect.get(socket, '_socket') as Socket;

describe('a host worker ends the connection of an API that sends', () => {
  test.each<[string, (socket: WebSocket) => void, number]>([
    ['text to a session', (socket) => socket.send('{"write":true}'), 4002],
    ['an empty body', (socket) => socket.send(Buffer.alloc(0)), 4002],
    ['a body that is cut in its header', (socket) => socket.send(opens().subarray(0, 16)), 4002],
    ['frames of two sessions', (socket) => sendAll(socket, [opens(), opens('ef'.repeat(16))]), 4002],
    ['a body that is too large', (socket) => socket.send(Buffer.alloc(64 * 1024)), 1009],
    ['an opcode that is none', (socket) => rawOf(socket).write(rawFrame(0x83)), 1002],
    ['text that is no UTF-8', (socket) => rawOf(socket).write(Buffer.from([0x81, 1, 0xff])), 1007],
  ])('%s, and another session goes on', async (_what, send, code) => {
    const beside = await order('vm');
    const { socket, closed } = await order('vm');
    send(socket);
    expect((await closed).code).toBe(code);
    await expectOthersGoOn(beside);
  });

  test.each<[string, (socket: WebSocket) => void, number]>([
    ['text to an agent', (socket) => socket.send('x'), 4002],
    ['a body without a session', (socket) => socket.send(Buffer.from('O')), 4002],
  ])('%s, where the guest has no program of Berth', async (_what, send, code) => {
    const { socket, closed } = await order('old');
    send(socket);
    expect((await closed).code).toBe(code);
  });

  const deep = '['.repeat(16_000);
  test.each([
    ['no JSON', '{"place":null,'],
    ['the deepest JSON that fits', deep],
    ['a place that leads out of the folder', '{"place":{"file":"../../etc/shadow","at":0},"tailBytes":1,"write":false}'],
    ['a negative place', '{"place":{"file":"a","at":-1},"tailBytes":1,"write":false}'],
    ['a place beyond what can be counted', '{"place":{"file":"a","at":1e300},"tailBytes":1,"write":false}'],
    ['half of a place', '{"place":{"file":"a"},"tailBytes":1,"write":false}'],
    ['a tail of petabytes', '{"place":null,"tailBytes":9007199254740991,"write":true}'],
    ['a list', '[]'],
    ['nothing', ''],
  ])('an order of a console that is %s, and another console goes on', async (_what, text) => {
    const beside = await order('vm', { console: true });
    beside.socket.send(JSON.stringify({ place: null, tailBytes: 100, write: false }));
    const { socket, closed } = await order('vm', { console: true });
    socket.send(text);
    expect(await closed).toEqual({ code: 4002, reason: expect.stringMatching(/^expected an order of a console, found/) });
    appendFileSync(paths().console, 'login: ');
    await expect.poll(() => Buffer.concat(beside.received).toString()).toContain('login: ');
  });
});

test('a guest whose answers fail with a long reason in another script ends its connection alone', async () => {
  const why = '失'.repeat(100);
  streams.close();
  streams = openStreams({
    agent: { exec: async () => Promise.reject(new TypeError(why)) },
    host: 'host1',
    pathsOf: paths,
    consoleHistory: { arrived: async () => undefined },
    channelState: async () => 'absent',
    apiUrl: `http://127.0.0.1:${(api.address() as { port: number }).port}`,
    log: pino({ level: 'silent' }),
  });
  const { socket, received } = await order('old');
  socket.send(opens());
  await expect.poll(() => Buffer.concat(received).toString()).toContain(why);
});
