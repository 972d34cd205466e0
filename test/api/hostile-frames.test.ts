import { once } from 'node:events';
import type { Socket } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { StreamOrder } from '../../contracts/stream.ts';
import type { RunningApi } from './running-api.ts';
import { hostOf, startApiWithVm } from './stream-hosts.ts';

/** What is thrown in a listener ends a process: here it fails the run, as the API is in it. */
let api: RunningApi;
let vm: string;
let hosts: ReturnType<typeof hostOf>;
beforeAll(async () => {
  ({ api, vm } = await startApiWithVm());
});
afterAll(() => api.end());
beforeEach(() => {
  hosts = hostOf(api.base);
  api.workflows.requested.openStream = hosts.open;
});

interface Closed {
  code: number;
  reason: string;
}

interface Open {
  socket: WebSocket;
  /** Of its channels 1 and 5. */
  received: { output: string; control: string };
  closed: Promise<Closed>;
}

async function open(url: string, protocol: string, headers: Record<string, string>): Promise<Open> {
  const socket = new WebSocket(new URL(url, api.base.replace('http', 'ws')), protocol, { headers });
  const received = { output: '', control: '' };
  socket.on('message', (data: Buffer) => {
    if (data[0] === 1) received.output += String(data.subarray(1));
    if (data[0] === 5) received.control += String(data.subarray(1));
  });
  socket.on('error', () => undefined);
  const closed = new Promise<Closed>((resolve) =>
    socket.once('close', (code, reason) => resolve({ code, reason: String(reason) })),
  );
  await once(socket, 'open');
  return { socket, received, closed };
}

const connect = (path: string, protocol = 'v1.stream.berth', party = api.alice): Promise<Open> =>
  open(`/v1/vms/${vm}/${path}`, protocol, { authorization: `Bearer ${party.key}` });

/** Past the checks of the client's library. */
const rawOf = (socket: WebSocket): Socket => Reflect.get(socket, '_socket') as Socket;

/** A client's frame, with a mask of zeros. */
function rawFrame(first: number, payload: Buffer, { lengthBytes }: { lengthBytes?: Buffer } = {}): Buffer {
  const length = lengthBytes ?? Buffer.from([0x80 | payload.length]);
  return Buffer.concat([Buffer.from([first]), length, Buffer.alloc(4), payload]);
}

const hugeLength = Buffer.from([0xff, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff]);

/** What no client of any protocol sends; each ends its connection with a code for it. */
const wrongFrames: [what: string, send: (socket: WebSocket) => void, code: number][] = [
  ['text', (socket) => socket.send('{"signal":2}'), 1002],
  ['a channel that is none', (socket) => socket.send(Buffer.from([9, 1, 2])), 1002],
  ['a message of 33 KiB', (socket) => socket.send(Buffer.alloc(33 * 1024)), 1009],
  ['a frame of terabytes', (socket) => rawOf(socket).write(rawFrame(0x82, Buffer.alloc(0), { lengthBytes: hugeLength })), 1009],
  ['an opcode that is none', (socket) => rawOf(socket).write(rawFrame(0x83, Buffer.alloc(1))), 1002],
  ['a frame that is not masked', (socket) => rawOf(socket).write(Buffer.from([0x82, 1, 0])), 1002],
  ['text that is no UTF-8', (socket) => rawOf(socket).write(rawFrame(0x81, Buffer.from([0xff, 0xfe]))), 1007],
  ['a continuation of nothing', (socket) => rawOf(socket).write(rawFrame(0x80, Buffer.alloc(1))), 1002],
  ['a ping of a megabyte', (socket) => rawOf(socket).write(rawFrame(0x89, Buffer.alloc(0), { lengthBytes: hugeLength })), 1002],
];

/** Sends it again and again until the other end closes. */
async function flood(socket: WebSocket, bytes: Buffer): Promise<void> {
  const raw = rawOf(socket);
  raw.on('error', () => undefined);
  const closed = new Promise((resolve) => raw.once('close', resolve));
  while (raw.writable && socket.readyState === socket.OPEN)
    await Promise.race([new Promise((resolve) => raw.write(bytes, resolve)), closed]);
}

const deep = (bytes: number): string => '['.repeat(bytes);
/** On the channel `control`: no message of a session, and none of a console. */
const wrongJson: [string, string][] = [
  ['no JSON', '{"signal":'],
  ['nothing', ''],
  ['JSON of 30,000 levels', `${deep(15_000)}${']'.repeat(15_000)}`],
  ['half of that', deep(30_000)],
  ['null', 'null'],
  ['a list', '[1]'],
  ['a number for another type', '{"signal":"9","write":1}'],
  ['a number out of range', '{"signal":1e308,"write":"true"}'],
  ['a field that is none', '{"signal":9,"write":true,"more":1}'],
  ["an object's prototype", '{"__proto__":{"signal":9,"write":true}}'],
];

const endpoints = [
  ['exec', 'exec?command=id&stdin=true'],
  ['forward', 'forward?port=80'],
  ['console', 'console'],
] as const;

describe.each(endpoints)('a hostile client of %s', (name, path) => {
  test.each(wrongFrames)('that sends %s is told so, and a session beside it goes on', async (_what, send, code) => {
    const beside = await connect('exec?command=id');
    const besideHost = hosts;
    hosts = hostOf(api.base);
    api.workflows.requested.openStream = hosts.open;
    const { socket, closed } = await connect(path);
    send(socket);
    expect((await closed).code).toBe(code);
    besideHost.output('still here');
    await expect.poll(() => beside.received.output).toBe('still here');
    beside.socket.close(1000);
    await beside.closed;
  });

  test.each(wrongJson)('that sends %s as a control message is told so', async (_what, json) => {
    const { socket, closed } = await connect(path);
    socket.send(Buffer.concat([Buffer.from([5]), Buffer.from(json)]));
    const { code, reason } = await closed;
    expect(code).toBe(1002);
    expect(reason).toMatch(/^expected a control message.*, found (no|other) JSON$/);
  });

  // A console has no size.
  if (name !== 'console')
    test("that sends a terminal's size of another form is told so", async () => {
      for (const size of [
        '',
        '{}',
        '{"Width":-1,"Height":1}',
        '{"Width":70000,"Height":1}',
        '{"Width":1.5,"Height":1}',
        deep(30_000),
      ]) {
        const { socket, closed } = await connect(path);
        socket.send(Buffer.concat([Buffer.from([4]), Buffer.from(size)]));
        expect(await closed).toEqual({ code: 1002, reason: expect.stringMatching(/^expected a terminal's size, found/) });
      }
    });

  test('that asks for pongs without reading them is cut off', async () => {
    const { socket, closed } = await connect(path);
    rawOf(socket).pause();
    await flood(socket, Buffer.concat(Array.from({ length: 2000 }, () => rawFrame(0x89, Buffer.alloc(125, 1)))));
    // `ws` counts the pongs that wait. Nothing has read it meanwhile: that the other end has closed is seen once something does.
    rawOf(socket).resume();
    expect((await closed).code).toBe(1006);
  });
});

test('a client that sends sizes faster than the host takes them is cut off', async () => {
  const { socket, closed } = await connect('exec?command=id&tty=true');
  hosts.stall();
  const size = Buffer.from('{"Width":80,"Height":24}');
  const frames = Buffer.concat(Array.from({ length: 2000 }, () => rawFrame(0x82, Buffer.concat([Buffer.from([4]), size]))));
  await flood(socket, frames);
  expect(await closed).toEqual({ code: 1008, reason: 'more messages than the guest takes' });
});

test('a client that types single bytes into a command that does not read is held to its window, in little time', async () => {
  const { socket, closed } = await connect('exec?command=sleep&stdin=true');
  const beganMs = process.cpuUsage().user / 1000;
  for (let n = 0; n <= 2 * 64 * 1024; n += 1) socket.send(Buffer.from([0, 1]));
  expect(await closed).toEqual({ code: 1009, reason: 'more input than its window' });
  // Ten times what it takes here; walking over each byte for each one took minutes.
  expect(process.cpuUsage().user / 1000 - beganMs).toBeLessThan(20_000);
});

describe('a guest that tells of its input', () => {
  test('again and again is not repeated to its client', async () => {
    const { socket, received, closed } = await connect('exec?command=cat&stdin=true');
    socket.send(Buffer.from('\0abc'));
    for (let times = 0; times < 1000; times += 1) hosts.read(0);
    hosts.read(3);
    for (let times = 0; times < 1000; times += 1) hosts.read(3);
    hosts.output('over');
    await expect.poll(() => received.output).toBe('over');
    expect(received.control.match(/"input"/g)).toHaveLength(2);
    socket.close(1000);
    await closed;
  });

  test('byte by byte, to a client that reads nothing, has it cut off', async () => {
    const { socket, closed } = await connect('exec?command=cat&stdin=true');
    const raw = rawOf(socket);
    raw.pause();
    raw.on('error', () => undefined);
    const gone = new Promise<boolean>((resolve) => raw.once('close', () => resolve(true)));
    let isGone = false;
    void gone.then(() => {
      isGone = true;
    });
    for (let read = 0; !isGone && socket.readyState === socket.OPEN && read < 20_000_000; ) {
      for (let n = 0; n < 1000; n += 1) {
        socket.send(Buffer.from([0, 1]));
        read += 1;
        hosts.read(read);
      }
      await Promise.race([new Promise((resolve) => socket.send(Buffer.from([255, 1]), resolve)), gone]);
      await new Promise((resolve) => setImmediate(resolve));
    }
    raw.resume();
    expect([1006, 1009]).toContain((await closed).code);
  });
});

describe('a hostile host', () => {
  /** Takes the order as a host does, and sends what it likes once the API has sent its first message. */
  function host(send: (socket: WebSocket) => void): { closed: Promise<Closed> } {
    const closed = Promise.withResolvers<Closed>();
    api.workflows.requested.openStream = async (order: StreamOrder) => {
      const url = new URL(`/internal/streams/${order.id}`, api.base.replace('http', 'ws'));
      const socket = new WebSocket(url, 'v1.host-stream.berth', { headers: { 'berth-stream-token': order.token } });
      socket.on('error', () => undefined);
      socket.once('message', () => send(socket));
      socket.once('close', (code, reason) => closed.resolve({ code, reason: String(reason) }));
      await once(socket, 'open');
    };
    return { closed: closed.promise };
  }

  test.each([
    ['no JSON', '{"place"'],
    ['another form', '{"place":{"file":"a b","at":1}}'],
    ['a place before the begin', '{"place":{"file":"a","at":-1}}'],
    ['both reports at once', '{"place":{"file":"a","at":1},"writing":true}'],
    ['the deepest JSON that fits', deep(16_000)],
  ])('whose report of a console is %s loses its connection, and its client is told', async (_what, report) => {
    const { closed: linkClosed } = host((socket) => socket.send(report));
    const { closed } = await connect('console');
    expect(await linkClosed).toEqual({ code: 4002, reason: expect.stringMatching(/^expected a report of a console, found/) });
    expect(await closed).toEqual({ code: 1011, reason: "the VM's host sends what is no console" });
  });

  test.each<[string, (socket: WebSocket) => void, number]>([
    ['text', (socket) => socket.send('hello'), 4002],
    ['a frame of no session', (socket) => socket.send(Buffer.alloc(17)), 4002],
    ['an empty message', (socket) => socket.send(Buffer.alloc(0)), 4002],
    ['a message of a megabyte', (socket) => socket.send(Buffer.alloc(2 ** 20)), 1009],
    ['an opcode that is none', (socket) => rawOf(socket).write(rawFrame(0x83, Buffer.alloc(1))), 1002],
  ])('that sends %s for a session that begins is refused, and so is its client', async (_what, send, code) => {
    const { closed } = host(send);
    await expect(connect('exec?command=id')).rejects.toThrow('503');
    expect((await closed).code).toBe(code);
  });

  test('that sends what is no frame and is gone before anything listens ends nothing', async () => {
    api.workflows.requested.openStream = async (order: StreamOrder) => {
      const url = new URL(`/internal/streams/${order.id}`, api.base.replace('http', 'ws'));
      const socket = new WebSocket(url, 'v1.host-stream.berth', { headers: { 'berth-stream-token': order.token } });
      socket.on('error', () => undefined);
      socket.once('open', () => {
        rawOf(socket).write(rawFrame(0x83, Buffer.alloc(1)));
        rawOf(socket).resetAndDestroy();
      });
      await once(socket, 'open');
    };
    await connect('console').then(({ socket }) => socket.terminate());
  });
});

test('none of it was a mistake of Berth', () => {
  expect(api.logged.filter((line) => line.includes('was not handled'))).toEqual([]);
});
