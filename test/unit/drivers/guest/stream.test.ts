import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type ClientEnd, type HostLink, type LinkEvents, Relay } from '../../../../api/streams/relay.ts';
import { type GuestPort, openGuestPort } from '../../../../drivers/guest/streams/guest-port.ts';
import type { StreamStatus } from '../../../../model/streams/channels.ts';
import { exitCodeOf } from '../../../../model/streams/channels.ts';
import { encodeHostFrame, guestSessions, parseGuestFrame, type StreamRequest } from '../../../../model/streams/frames.ts';
import { LossyPort } from './lossy-port.ts';

/** The guest's program, built and run here, with the host's and the API's ends of it. */
const source = fileURLToPath(new URL('../../../../infra/guest/stream.c', import.meta.url));
const built = mkdtempSync(join(tmpdir(), 'berth-stream-built-'));
const program = join(built, 'berth-stream');
beforeAll(() => {
  execFileSync('gcc', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
});
afterAll(() => rmSync(built, { recursive: true }));

let port: LossyPort;
let child: ChildProcess;
let host: Promise<GuestPort> | null;
const relays = new Set<Relay>();
beforeEach(async () => {
  port = await LossyPort.open();
  child = spawn(program, [port.guestPath], { stdio: ['ignore', 'ignore', 'inherit'] });
  host = null;
  await port.guestArrived();
});
afterEach(async () => {
  for (const relay of relays) relay.close(true);
  relays.clear();
  await host?.then((opened) => opened.close()).catch(() => undefined);
  await port.close();
  if (child.exitCode === null) await once(child, 'exit');
});

const greeting = { deadlineMs: 10_000, isOpen: async () => true };

/** What the host worker does: one connection to the port, which is made again after a loss. */
async function reach(session: string, events: LinkEvents): Promise<HostLink> {
  const known = await host?.catch(() => null);
  if (known == null || known.lost) host = openGuestPort(port.hostPath, greeting);
  const used = await host!;
  const user = {
    onBody: (body: Buffer) => {
      const frame = parseGuestFrame(body);
      expect(frame).not.toBeNull();
      events.onFrame(frame!);
    },
    onLost: () => events.onClose('lost'),
    onReplaced: () => events.onClose('replaced'),
  };
  return {
    send: (frame: Parameters<typeof encodeHostFrame>[1]) => {
      used.use(session, user);
      used.send(encodeHostFrame(session, frame));
    },
    close: () => used.detach(session, user),
    unsentBytes: 0,
  };
}

interface Transcript {
  output: Buffer;
  error: Buffer;
  status: StreamStatus;
}

let sessions = 0;
function newSession(): string {
  sessions += 1;
  return sessions.toString(16).padStart(32, '0');
}
const pipes = (...argv: string[]): StreamRequest => ({
  kind: 'pipes',
  size: { rows: 24, cols: 80 },
  timeoutS: 0,
  folder: '/',
  env: ['PATH=/usr/bin:/bin'],
  argv,
});

/** Runs one session to its end, with an input that comes in pieces as its reader takes them. */
async function run(
  request: StreamRequest,
  input: Buffer | null = null,
  use: (relay: Relay) => void = () => undefined,
): Promise<Transcript> {
  const session = newSession();
  const relay = new Relay({
    request,
    after: 0,
    idleMs: 0,
    reach: (events) => reach(session, events),
    backoff: { initialMs: 1, maxMs: 5 },
  });
  relays.add(relay);
  const parts: Record<1 | 2, Buffer[]> = { 1: [], 2: [] };
  const ended = Promise.withResolvers<StreamStatus>();
  let sent = 0;
  function sendMore(): void {
    while (input !== null && sent < input.length && relay.unreadBytes < 64 * 1024) {
      const piece = input.subarray(sent, sent + 5000);
      sent += piece.length;
      relay.input(piece);
      if (sent === input.length) relay.endInput();
    }
  }
  const client: ClientEnd = {
    begin: () => undefined,
    inputRead: () => queueMicrotask(sendMore),
    output(channel, bytes, end) {
      parts[channel].push(Buffer.from(bytes));
      queueMicrotask(() => relay.confirm(end));
    },
    end(status, confirmed) {
      confirmed();
      ended.resolve(status);
    },
  };
  await relay.connect();
  relay.serve(client);
  use(relay);
  if (input === null) relay.endInput();
  else sendMore();
  const status = await ended.promise;
  return { output: Buffer.concat(parts[1]), error: Buffer.concat(parts[2]), status };
}

describe('a session of a guest', () => {
  test('has its outputs apart, and its exit code', async () => {
    const { output, error, status } = await run(pipes('sh', '-c', 'echo out; echo err >&2; exit 3'));
    expect([output.toString(), error.toString(), exitCodeOf(status)]).toEqual(['out\n', 'err\n', 3]);
  });

  test('reads no frame of which a bit has turned', async () => {
    port.damage('intact');
    const { output } = await run(pipes('cat'), Buffer.from('this is intact'));
    expect(output.toString()).toBe('this is intact');
  });

  test('reads its input to the end', async () => {
    const input = Buffer.alloc(300_000, 'abc\0def\n');
    const { output, status } = await run(pipes('cat'), input);
    expect(output.equals(input)).toBe(true);
    expect(exitCodeOf(status)).toBe(0);
  });

  test('has a terminal of the size that the client has', async () => {
    const request: StreamRequest = {
      ...pipes('sh', '-c', 'stty size; read line; stty size; echo "got $line"'),
      kind: 'terminal',
    };
    const { output, status } = await run(request, Buffer.from('hello\n'), (relay) => relay.resize({ rows: 40, cols: 100 }));
    expect(output.toString()).toContain('40 100\r\ngot hello\r\n');
    expect(exitCodeOf(status)).toBe(0);
  });

  test('ends by a signal, by its time-out, and when there is no such program', async () => {
    const waits = pipes('sh', '-c', 'trap "echo caught; exit 9" INT; while :; do sleep 0.05; done');
    const signalled = await run(waits, null, (relay) => setTimeout(() => relay.signal(2), 200));
    expect([signalled.output.toString(), exitCodeOf(signalled.status)]).toEqual(['caught\n', 9]);
    const late = await run({ ...pipes('sleep', '60'), timeoutS: 1 });
    expect(late.status).toMatchObject({ reason: 'Timeout' });
    const absent = await run(pipes('no-such-program'));
    expect([exitCodeOf(absent.status), absent.error.toString()]).toEqual([127, 'no-such-program: No such file or directory\n']);
  });

  test('connects to a port of the guest', async () => {
    const server = createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port: number } = server.address() as { port: number };
    const input = Buffer.alloc(100_000, 'xyz');
    const { output, status } = await run({ ...pipes(String(number)), kind: 'connection' }, input);
    expect(output.equals(input)).toBe(true);
    expect(exitCodeOf(status)).toBe(0);
    server.close();
    await expect(run({ ...pipes(String(number)), kind: 'connection' })).rejects.toMatchObject({ code: 'command-not-started' });
  });

  test('is refused when the guest has as many as it can', async () => {
    host = openGuestPort(port.hostPath, greeting);
    for (let count = 0; count < guestSessions; count += 1) {
      const session = newSession();
      const relay = new Relay({ request: pipes('cat'), after: 0, idleMs: 0, reach: (events) => reach(session, events) });
      relays.add(relay);
      await relay.connect();
    }
    await expect(run(pipes('true'))).rejects.toMatchObject({ code: 'rate-limited' });
  });
});

test('every byte arrives once, in both directions, whatever is cut', { timeout: 120_000 }, async () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 60_000 }), { minLength: 1, maxLength: 8 });
  const size = fc.integer({ min: 0, max: 400_000 });
  await fc.assert(
    fc.asyncProperty(size, cuts, async (bytes, distances) => {
      const input = Buffer.alloc(bytes);
      for (let at = 0; at + 4 <= bytes; at += 4) input.writeUInt32LE(at, at);
      const left = [...distances];
      const { output, status } = await run(pipes('cat'), input, () => {
        port.onCut = () => port.cutAfter(left.shift() ?? null);
        port.onCut();
      });
      port.cutAfter(null);
      expect(output.equals(input)).toBe(true);
      expect(exitCodeOf(status)).toBe(0);
    }),
    { numRuns: 25 },
  );
});
