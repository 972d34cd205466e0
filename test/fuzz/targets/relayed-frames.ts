import { EventEmitter } from 'node:events';
import type { WebSocket } from 'ws';
import { serveClient } from '../../../api/streams/client-socket.ts';
import { ConsoleRelay } from '../../../api/streams/console-relay.ts';
import type { HostLink, LinkEvents } from '../../../api/streams/relay.ts';
import { Relay } from '../../../api/streams/relay.ts';
import { runByAgent } from '../../../drivers/guest/streams/agent-session.ts';
import { berthProtocol, kubernetesProtocol } from '../../../model/streams/channels.ts';
import { ConsoleOrder } from '../../../model/streams/console.ts';
import {
  bodyBytes,
  encodeGuestFrame,
  encodeHostFrame,
  parseGuestFrame,
  parseHostFrame,
  sessionOf,
} from '../../../model/streams/frames.ts';
import { InvalidMessage, parseMessage } from '../../../model/streams/messages.ts';
import { changeBytes } from '../random.ts';
import { type FuzzTarget, requireShortMessage, signatureOf, Wrong } from '../target.ts';

const session = '0f'.repeat(16);
const request = {
  kind: 'pipes',
  size: { rows: 1, cols: 1 },
  timeoutS: 0,
  folder: '/',
  env: ['A=b'],
  argv: ['cat', '-'],
} as const;

/** Messages of a course, each after its length in two bytes, from one of these. */
const froms = ['client', 'client text', 'pong', 'host', 'host text', 'client closes', 'host closes'] as const;
type From = (typeof froms)[number];

const course = (...messages: [From, Uint8Array | string][]): Buffer =>
  Buffer.concat(
    messages.map(([from, content]) => {
      const bytes = Buffer.from(content as string);
      const head = Buffer.from([froms.indexOf(from), 0, 0]);
      head.writeUInt16LE(bytes.length, 1);
      return Buffer.concat([head, bytes]);
    }),
  );

function* messagesOf(input: Buffer): Generator<[From, Buffer]> {
  for (let at = 0; at + 3 <= input.length; ) {
    const end = at + 3 + input.readUInt16LE(at + 1);
    yield [froms[(input[at] ?? 0) % froms.length] ?? 'client', input.subarray(at + 3, end)];
    at = end;
  }
}

/** One end of a connection, whose other end is the course. */
class FakeSocket extends EventEmitter {
  readonly OPEN = 1;
  readyState = 1;
  bufferedAmount = 0;
  isPaused = false;
  readonly protocol: string;
  readonly sent: Buffer[] = [];
  readonly texts: string[] = [];
  closed: { code: number; reason: string } | null = null;

  constructor(protocol = '') {
    super();
    this.protocol = protocol;
  }
  send(message: Buffer | string, done?: () => void): void {
    this.sent.push(Buffer.from(message as string));
    if (typeof message === 'string') this.texts.push(message);
    done?.();
  }
  ping(): void {}
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
  close(code = 1005, reason: Buffer | string = ''): void {
    if (this.readyState !== this.OPEN) return;
    if (Buffer.byteLength(reason as string) > 123) throw new Wrong('a reason that is too long');
    this.readyState = 2;
    this.closed = { code, reason: String(reason) };
    this.emit('close', code, Buffer.from(reason as string));
  }
  get asSocket(): WebSocket {
    return this as unknown as WebSocket;
  }
}

const onBug = (error: unknown): never => {
  throw error;
};

/** The course's messages as each side's events. A bug of a listener throws through `emit`. */
function play(input: Buffer, { client, link }: { client: FakeSocket; link: (from: From, bytes: Buffer) => void }): void {
  for (const [from, bytes] of messagesOf(input)) {
    if (from === 'client' || from === 'client text') client.emit('message', bytes, from === 'client');
    else if (from === 'pong') client.emit('pong', bytes.subarray(0, 125));
    else if (from === 'client closes') client.close(1000);
    else link(from, bytes);
  }
}

const changed: FuzzTarget['change'] = (random, input) => {
  const bytes = Buffer.concat([input, Buffer.alloc(random.below(20), random.below(256))]);
  for (let changes = 1 + random.below(5); changes > 0; changes -= 1)
    changeBytes(random, bytes, [random.below(bytes.length), random.below(bytes.length), 0, 3, 4]);
  return bytes.subarray(0, 1 + random.below(bytes.length));
};

const output = (at: number, text: string): Buffer =>
  encodeGuestFrame(session, { type: 'output', at, channel: 1, bytes: Buffer.from(text) });

/** A session between a client and a host, each of which sends anything: no throw, and nothing but frames goes to the guest. */
export const clientFramesTarget = (): FuzzTarget => ({
  corpus: async () => [
    course(['client', '\0input'], ['host', encodeGuestFrame(session, { type: 'read', at: 5 })], ['client', '\xff\0']),
    course(['client', '\x04{"Width":80,"Height":24}'], ['client', '\x05{"signal":2}'], ['host', output(0, 'hello')]),
    course(
      ['host', output(0, 'a')],
      ['host', encodeGuestFrame(session, { type: 'ended', at: 1, how: 'exited', code: 3 })],
      ['pong', 'end'],
    ),
    course(['client text', '{}'], ['client closes', '']),
    course(['host', output(0, 'ab')], ['pong', '1'], ['pong', '2'], ['host closes', ''], ['client', '\0more']),
  ],
  change: changed,
  async run(input) {
    const outcomes: string[] = [];
    for (const protocol of [berthProtocol, kubernetesProtocol]) {
      const client = new FakeSocket(protocol);
      const toGuest = new Set<string>();
      let events: LinkEvents | null = null;
      const reach = async (given: LinkEvents): Promise<HostLink> => {
        if (events !== null) throw new Error('no host any more');
        events = given;
        return {
          send(frame) {
            const body = encodeHostFrame(session, frame);
            if (body.length > bodyBytes) throw new Wrong(`a frame of ${body.length} bytes`);
            if (parseHostFrame(body)?.type !== frame.type) throw new Wrong(`a frame ${frame.type} that is none`);
            toGuest.add(frame.type);
            if (frame.type === 'open') given.onFrame({ type: 'attached', input: 0, signals: 0, first: 0, last: 0 });
          },
          close: () => undefined,
          unsentBytes: 0,
        };
      };
      const relay = new Relay({
        request: { ...request, env: [...request.env], argv: [...request.argv] },
        after: 0,
        idleMs: 0,
        reach,
      });
      // Its host is attached in the moment in which it is reached: what is attached before is ignored, so that it comes later.
      const connecting = relay.connect();
      await Promise.resolve();
      (events as LinkEvents | null)?.onFrame({ type: 'attached', input: 0, signals: 0, first: 0, last: 0 });
      await connecting;
      serveClient(client.asSocket, relay, { session, onBug });
      play(input, {
        client,
        link(from, bytes) {
          if (from === 'host closes') return events?.onClose('lost');
          const frame = sessionOf(bytes) === session ? parseGuestFrame(bytes) : null;
          if (frame !== null) events?.onFrame(frame);
        },
      });
      const state = client.closed === null ? 'open' : `${client.closed.code} ${client.closed.reason}`;
      outcomes.push(`${state} ${[...toGuest].sort().join()} ${[...new Set(client.sent.map(([first]) => first))].sort().join()}`);
      client.close(1000);
      relay.close(true);
    }
    return signatureOf(outcomes.join('; '));
  },
});

/** The console of a VM between a client and a host, and the orders that its host takes. */
export const consoleFramesTarget = (): FuzzTarget => ({
  corpus: async () => [
    course(['host text', '{"place":{"file":"host-a.1.2","at":5}}'], ['host', 'login: '], ['client', '\0root\r']),
    course(['client', '\x05{"write":true}'], ['host text', '{"writing":true}'], ['host text', '{"writing":false}']),
    course(['client text', '{"place":null,"tailBytes":100,"write":true}'], ['client', '\x04{}'], ['client', '\xff']),
    course(['client', '\x09'], ['host text', '[[[[]]]]'], ['host closes', ''], ['client closes', '']),
  ],
  change: changed,
  async run(input) {
    const outcomes: string[] = [];
    for (const protocol of [berthProtocol, kubernetesProtocol]) {
      const client = new FakeSocket(protocol);
      const links = [new FakeSocket(), new FakeSocket()];
      let reached = 0;
      const reach = async (): Promise<WebSocket> => {
        const link = links[reached];
        reached += 1;
        if (link === undefined) throw new Error('x'.repeat(500));
        return link.asSocket;
      };
      const relay = new ConsoleRelay({ place: null, tailBytes: 100, write: true, idleMs: 0, reach, onBug });
      await relay.connect();
      relay.serve(client.asSocket);
      play(input, {
        client,
        link(from, bytes) {
          const link = links[Math.min(reached, links.length) - 1];
          if (from === 'host closes') link?.close(1006);
          else link?.emit('message', bytes, from === 'host');
        },
      });
      for (const [from, bytes] of messagesOf(input)) if (from === 'client text') requireOrder(bytes);
      for (const { texts } of links) for (const text of texts) parseMessage(ConsoleOrder, Buffer.from(text), 'an order');
      const state = client.closed === null ? 'open' : `${client.closed.code} ${client.closed.reason}`;
      outcomes.push(
        `${state} ${links[0]?.closed?.code} ${reached} ${[...new Set(client.sent.map(([first]) => first))].sort().join()}`,
      );
      relay.close();
      client.close(1000);
    }
    return signatureOf(outcomes.join('; '));
  },
});

/** What a host worker takes for an order. */
function requireOrder(bytes: Buffer): void {
  try {
    const { place, tailBytes } = parseMessage(ConsoleOrder, bytes, 'an order');
    if (!Number.isSafeInteger(tailBytes) || tailBytes < 0 || (place !== null && !/^[\w.-]{1,128}$/.test(place.file)))
      throw new Wrong('an order out of its bounds');
  } catch (error) {
    if (!(error instanceof InvalidMessage)) throw error;
    requireShortMessage(error.message);
  }
}

/** What the API sends to a guest without the program: the agent is asked for what fits its bounds alone. */
export const hostFramesTarget = (): FuzzTarget => ({
  corpus: async () => [
    encodeHostFrame(session, { type: 'open', request: { ...request, env: [...request.env], argv: [...request.argv] } }),
    encodeHostFrame(session, { type: 'attach', after: 2 ** 40 }),
    encodeHostFrame(session, { type: 'input', at: 7, bytes: Buffer.from('abc') }),
    encodeHostFrame(session, { type: 'resize', size: { rows: 24, cols: 80 } }),
    encodeHostFrame(session, { type: 'signal', number: 3, signal: 15 }),
    encodeHostFrame(session, { type: 'close' }),
  ],
  change: changed,
  async run(input) {
    const frame = parseHostFrame(input);
    const commands: string[] = [];
    const agent = {
      exec: async (_domain: string, argv: string[], { env = [] }: { env?: string[] }) => {
        const texts = [...argv, ...env];
        if (texts.length > 300 || texts.some((text) => text.includes('\0'))) throw new Wrong(`${texts.length} arguments`);
        commands.push(argv.length > 6 ? 'arguments' : 'a program');
        return { exitCode: 0, stdout: 'x', stderr: '' };
      },
    };
    let answers = 0;
    await runByAgent(agent as never, 'vm', session, input, (answer) => {
      if (parseGuestFrame(answer) === null) throw new Wrong('an answer that is no frame');
      answers += 1;
    });
    return `${frame?.type ?? 'none'} ${commands.join()} ${answers}`;
  },
});
