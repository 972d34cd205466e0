import { once } from 'node:events';
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { ConsoleLog } from '../../../../drivers/guest/streams/console-log.ts';
import { Consoles } from '../../../../drivers/guest/streams/consoles.ts';
import { encodeSegments } from '../../../../drivers/guest/streams/earlier-console.ts';
import type { ConsolePlace } from '../../../../model/streams/console.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-console-'));
  path = join(folder, 'console.log');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** All that comes after a place, and where it goes on. */
async function readAll(log: ConsoleLog, place: ConsolePlace | null, tailBytes = 1000) {
  let text = '';
  let next = place;
  for (let part = await log.read(next, tailBytes); part !== null; part = await log.read(next, tailBytes)) {
    text += part.bytes.toString();
    next = part.next;
  }
  return { text, next };
}

describe('a console log', () => {
  test('goes on at its place when virtlogd begins another file, and is read once', async () => {
    const log = new ConsoleLog(path, 'host1');
    writeFileSync(path, 'one ');
    const first = await readAll(log, null);
    expect(first.text).toBe('one ');
    appendFileSync(path, 'two ');
    renameSync(path, `${path}.0`);
    writeFileSync(path, 'three ');
    const second = await readAll(log, first.next);
    expect(second.text).toBe('two three ');
    expect((await readAll(log, second.next)).text).toBe('');
  });

  test('of another host, or one that is not kept any more, is read from its beginning', async () => {
    writeFileSync(path, 'here');
    const elsewhere = { file: 'host2.1.1', at: 17 };
    expect((await readAll(new ConsoleLog(path, 'host1'), elsewhere)).text).toBe('here');
  });

  test('begins with its last bytes for a client that has nothing, over both files', async () => {
    writeFileSync(`${path}.0`, 'abcdef');
    writeFileSync(path, 'ghi');
    expect((await readAll(new ConsoleLog(path, 'host1'), null, 5)).text).toBe('efghi');
  });
});

describe('a console log with a history', () => {
  const segments = [
    { file: 'host2.5.5', at: 100, bytes: Buffer.from('one ') },
    { file: 'host3.6.6', at: 0, bytes: Buffer.from('two ') },
  ];
  const log = () => new ConsoleLog(path, 'host1');
  beforeEach(() => {
    writeFileSync(`${path}.earlier`, encodeSegments(segments));
    writeFileSync(path, 'three');
  });

  test.each([
    [null, 7, 'o three'],
    [null, 1000, 'one two three'],
    [{ file: 'host2.5.5', at: 102 }, 0, 'e two three'],
    [{ file: 'host2.5.5', at: 104 }, 0, 'two three'],
    [{ file: 'host2.5.5', at: 7 }, 0, 'one two three'],
    [{ file: 'host3.6.6', at: 4 }, 0, 'three'],
    [{ file: 'host4.7.7', at: 4 }, 0, 'one two three'],
  ])('goes on at %j, or with the last %i bytes, with %s', async (place, tail, text) => {
    expect((await readAll(log(), place, tail)).text).toBe(text);
  });

  test.each([
    [{ last: 7 }, 6, 'o three'],
    [{ from: 2, bytes: 4 }, 2, 'e tw'],
    [{ from: 20, bytes: 4 }, 13, ''],
  ])('has the page %j', async (range, from, text) => {
    const page = (await log().readPage(range))!;
    expect([page.from, page.totalBytes, page.bytes.toString()]).toEqual([from, 13, text]);
  });

  test('becomes a history itself, of a MiB and 64 parts at most', async () => {
    const packed = await log().pack();
    writeFileSync(`${path}.earlier`, packed);
    // Not removed: a file of the same millisecond that has its inode would be taken for it.
    renameSync(path, `${path}.before`);
    expect((await readAll(log(), { file: 'host2.5.5', at: 103 })).text).toBe(' two three');
    writeFileSync(path, 'x'.repeat(3 * 2 ** 20));
    expect((await log().pack()).length).toBeLessThan(2 ** 20 + 200);
    const many = Array.from({ length: 100 }, (_, n) => ({ file: `${'h'.repeat(60)}${n}`, at: n, bytes: Buffer.from(`${n} `) }));
    writeFileSync(`${path}.earlier`, encodeSegments(many));
    rmSync(path);
    const all = await readAll(log(), null);
    expect(all.text).toBe(
      many
        .slice(36)
        .map(({ bytes }) => bytes.toString())
        .join(''),
    );
    expect(await log().has({ file: many[36]!.file, at: 0 })).toBe(true);
  });

  test.each(['', 'no header', '{}\n', '{"segments":[{"file":"../x","at":0,"bytes":1}]}\na', '{"segments":[]}\nmore', '[\n'])(
    'that is damaged (%j) is as good as none',
    async (content) => {
      writeFileSync(`${path}.earlier`, content);
      expect((await readAll(log(), null)).text).toBe('three');
    },
  );
});

describe('the console of a guest', () => {
  const domain = 'vm';
  let qemu: Server;
  let typed: string;
  let guest: Socket | null;
  let api: WebSocketServer;
  /** What came before is here. */
  let arriving: Promise<void>;
  const clients: WebSocket[] = [];

  beforeEach(async () => {
    typed = '';
    guest = null;
    arriving = Promise.resolve();
    qemu = createServer((socket) => {
      guest = socket;
      socket.on('data', (bytes) => {
        typed += String(bytes);
      });
    }).listen(join(folder, 'tty'));
    writeFileSync(path, '');
    const consoles = new Consoles({
      host: 'host1',
      pathsOf: () => ({ console: path, consoleSocket: join(folder, 'tty') }),
      note: () => undefined,
      arrived: () => arriving,
      onBug: (error) => {
        throw error;
      },
    });
    api = new WebSocketServer({ port: 0 });
    api.on('connection', (socket) => consoles.serve(domain, socket));
    await once(api, 'listening');
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.terminate();
    api.close();
    guest?.destroy();
    qemu.close();
  });

  async function connect(write: boolean, place: ConsolePlace | null = null) {
    const { port } = api.address() as { port: number };
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    clients.push(socket);
    const seen = { text: '', writing: null as boolean | null, closed: null as number | null };
    socket.on('message', (data: Buffer, isBinary) => {
      if (isBinary) seen.text += String(data);
      else {
        const report = JSON.parse(String(data)) as { writing?: boolean };
        if (report.writing !== undefined) seen.writing = report.writing;
      }
    });
    socket.once('close', (code) => {
      seen.closed = code;
    });
    await once(socket, 'open');
    socket.send(JSON.stringify({ place, tailBytes: 100, write }));
    return { socket, seen };
  }

  test('has any number of viewers, and one writer, which another one takes over from', async () => {
    const first = await connect(true);
    await expect.poll(() => first.seen.writing).toBe(true);
    first.socket.send(Buffer.from('a'));
    await expect.poll(() => typed).toBe('a');
    const viewer = await connect(false);
    viewer.socket.send(Buffer.from('not typed'));
    const second = await connect(true);
    await expect.poll(() => [first.seen.writing, second.seen.writing]).toEqual([false, true]);
    first.socket.send(Buffer.from('not typed'));
    second.socket.send(Buffer.from('b'));
    await expect.poll(() => typed).toBe('ab');
    appendFileSync(path, 'login: ');
    const all = [first, viewer, second];
    await expect.poll(() => all.map(({ seen }) => seen.text)).toEqual(['login: ', 'login: ', 'login: ']);
  });

  test('is shown with its history, for which a client waits that does not have it', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    arriving = promise;
    writeFileSync(path, 'written here');
    const [fresh, moved] = [await connect(false), await connect(false, { file: 'host2.5.5', at: 9 })];
    const place = (await new ConsoleLog(path, 'host1').read(null, 100))!.from;
    const known = await connect(false, { ...place, at: 8 });
    await expect.poll(() => known.seen.text).toBe('here');
    expect([fresh.seen.text, moved.seen.text]).toEqual(['', '']);
    writeFileSync(`${path}.earlier`, encodeSegments([{ file: 'host2.5.5', at: 2, bytes: Buffer.from('at home, and then ') }]));
    resolve();
    await expect
      .poll(() => [fresh.seen.text, moved.seen.text])
      .toEqual(['at home, and then written here', ', and then written here']);
  });

  test('is cut off from a client that takes the keyboard again and again and reads nothing', async () => {
    const { socket } = await connect(true);
    const raw = Reflect.get(socket, '_socket') as Socket;
    raw.pause();
    raw.on('error', () => undefined);
    const closed = new Promise((resolve) => raw.once('close', resolve));
    const order = JSON.stringify({ place: null, tailBytes: 0, write: true });
    // It can be sent as long as the other end takes it; without a bound that is for ever.
    while (raw.writable) {
      for (let n = 0; n < 500; n += 1) socket.send(order);
      await Promise.race([new Promise((resolve) => socket.send(order, resolve)), closed]);
    }
    await closed;
  });

  test('is sent to its end when the domain ends, and then the connection is closed', async () => {
    const { seen } = await connect(true);
    await expect.poll(() => seen.writing).toBe(true);
    appendFileSync(path, 'the last line');
    guest?.end();
    await expect.poll(() => seen.closed).toBe(4001);
    expect(seen.text).toBe('the last line');
  });
});
