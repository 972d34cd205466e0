import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { BerthError } from '../../model/errors.ts';
import { isFull } from '../tier.ts';
import type { Party, ProblemBody, RunningApi } from './running-api.ts';
import { hostOf, runCommand, startApiWithVm } from './stream-hosts.ts';

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

interface Connected {
  socket: WebSocket;
  /** By channel. */
  received: Map<number, string>;
  /** The close code. */
  closed: Promise<number>;
}

async function connect(
  party: Party | null,
  path: string,
  { protocol = 'v1.stream.berth', headers = {} }: { protocol?: string; headers?: Record<string, string> } = {},
): Promise<Connected> {
  const url = new URL(path, api.base.replace('http', 'ws'));
  const authorization = party === null ? {} : { authorization: `Bearer ${party.key}` };
  const socket = new WebSocket(url, protocol, { headers: { ...authorization, ...headers } });
  const received = new Map<number, string>();
  socket.on('message', (data: Buffer) => {
    const channel = data[0] ?? -1;
    received.set(channel, `${received.get(channel) ?? ''}${data.subarray(1)}`);
  });
  const closed = once(socket, 'close').then(([code]) => code as number);
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('unexpected-response', (_, response) => reject(new Error(String(response.statusCode))));
    socket.once('error', reject);
  });
  return { socket, received, closed };
}

const exec = (query = '?command=id'): string => `/v1/vms/${vm}/exec${query}`;
const refused = (party: Party | null, path: string, options = {}) =>
  connect(party, path, options).then(
    () => 'connected',
    (error: Error) => error.message,
  );

describe('a command in a VM', () => {
  test.each(['v1.stream.berth', 'v5.channel.k8s.io'])('has its output, its status and its end over %s', async (protocol) => {
    const { received, closed, socket } = await connect(api.alice, exec(), { protocol });
    await runCommand(hosts, { output: 'out\n', error: 'err\n', code: 3 });
    expect(await closed).toBe(1000);
    expect(socket.protocol).toBe(protocol);
    expect([received.get(1), received.get(2)]).toEqual(['out\n', 'err\n']);
    const status = JSON.parse(received.get(3)!);
    expect(status).toMatchObject({ status: 'Failure', details: { causes: [{ reason: 'ExitCode', message: '3' }] } });
    expect(received.has(5)).toBe(protocol === 'v1.stream.berth');
  });

  test('is in no event and in no log; its key and its session are', async () => {
    const { closed } = await connect(api.alice, exec('?command=echo&command=hunter2'));
    expect(hosts.requests.at(-1)).toMatchObject({ argv: ['echo', 'hunter2'] });
    await runCommand(hosts, { output: 'hunter2', error: '', code: 0 });
    await closed;
    const events = await api.ledger.event.findMany({ where: { type: 'berth.vm.sessionOpened', subject: vm } });
    expect(events.at(-1)).toMatchObject({ data: { key: api.alice.keyId, kind: 'pipes', vm } });
    expect(JSON.stringify(events.map(({ data }) => data))).not.toContain('hunter2');
    expect(api.logged.join('\n')).toContain('a client is connected to a guest');
    expect(api.logged.join('\n')).not.toContain('hunter2');
  });

  test.each([
    ['exec?command=id', 'conflict'],
    ['console', 'vm-moved'],
  ] as const)('or its console, %s, begins once the VM has arrived, where it is between two hosts: %s', async (path, code) => {
    let attempts = 0;
    api.workflows.requested.openStream = async (order) => {
      attempts += 1;
      if (attempts < 4) throw new BerthError(code, 'it does not run on this host now');
      await hosts.open(order);
    };
    const { socket, closed } = await connect(api.alice, `/v1/vms/${vm}/${path}`);
    expect([attempts, hosts.orders.length]).toEqual([4, 1]);
    socket.close(1000);
    await closed;
  });

  test('is refused at once where no other attempt can do better', async () => {
    let attempts = 0;
    api.workflows.requested.openStream = async () => {
      attempts += 1;
      throw new BerthError('guest-program-missing', 'no program');
    };
    expect([await refused(api.alice, exec()), attempts]).toEqual(['409', 1]);
  });

  test('goes on after its connection was lost, with no byte twice', async () => {
    const { received, closed } = await connect(api.alice, exec());
    hosts.output('one ');
    await expect.poll(() => received.get(1)).toBe('one ');
    hosts.lose();
    await expect.poll(() => hosts.attached).toBe(2);
    hosts.output('two', { again: 2 });
    await runCommand(hosts, { output: '', error: '', code: 0 });
    expect(await closed).toBe(1000);
    expect(received.get(1)).toBe('one two');
  });
});

/** The answer to a request that does not become a WebSocket. */
async function refusal(path: string): Promise<{ status: number; text: string }> {
  const headers = { authorization: `Bearer ${api.alice.key}` };
  const socket = new WebSocket(new URL(path, api.base.replace('http', 'ws')), 'v1.stream.berth', { headers });
  socket.on('error', () => undefined);
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage];
  return { status: response.statusCode ?? 0, text: (await response.setEncoding('utf8').toArray()).join('') };
}

describe('a request is refused', () => {
  test('without a key, for another owner, for a VM that does not run, without a command', async () => {
    expect(await refused(null, exec())).toBe('401');
    expect(await refused(api.bob, exec())).toBe('404');
    const order = { name: 'waits', image: 'debian-12' };
    const { id } = (await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json: order })).body;
    expect(await refused(api.alice, `/v1/vms/${id}/exec?command=id`)).toBe('409');
    expect(await refused(api.alice, exec(''))).toBe('400');
    expect(await refused(api.alice, exec(`?command=${'x'.repeat(13_000)}`))).toBe('400');
    expect(await refused(api.alice, exec(), { protocol: 'v4.channel.k8s.io' })).toBe('400');
    expect(hosts.orders).toEqual([]);
  });

  const words = (name: string, count: number, text = 'a'): string => `&${name}=${text}`.repeat(count);
  test.each<[string, string, string, string]>([
    ['an argument of 13 KB', `?command=${'x'.repeat(13_000)}`, 'command', 'bytes with the environment, of at most 12288'],
    ['251 arguments', `?command=a${words('command', 250)}`, 'command', 'of at most 248 together'],
    ['300 variables', `?command=a${words('env', 300, 'A=b')}`, 'env', 'of at most 248 together'],
    ['variables of 13 KB', `?command=a&env=A=${'x'.repeat(13_000)}`, 'env', 'bytes with the environment'],
    ['a NUL in an argument', '?command=a%00b', 'command', 'without NUL'],
    ['a NUL in a variable', '?command=a&env=A=%00', 'env', 'without NUL'],
    ['no program', '?command=', 'command', 'no program'],
    ['a variable without a name', '?command=a&env==b', 'env', 'not NAME=VALUE'],
    ['a variable with a line feed in its name', '?command=a&env=A%0AB=b', 'env', 'not NAME=VALUE'],
    ['a terminal of no rows', '?command=a&tty=true&rows=0', 'rows', ''],
    ['a terminal of 70,000 columns', '?command=a&tty=true&cols=70000', 'cols', ''],
    ['a terminal of half a row', '?command=a&tty=true&rows=1.5', 'rows', ''],
    ['a time-out of a year', '?command=a&timeoutS=31536000', 'timeoutS', ''],
    ['a folder, or a user', '?command=a&cwd=/etc', 'cwd', ''],
    ['a session that is none', '?session=00', 'session', ''],
    ['output before the begin', `?session=${'0'.repeat(32)}&after=-1`, 'after', ''],
  ])('with the parameter and the reason: %s', async (_what, query, parameter, why) => {
    const { status, text } = await refusal(exec(query));
    expect(status).toBe(400);
    const { errors } = JSON.parse(text) as ProblemBody;
    expect(errors[0]).toMatchObject({ pointer: `query.${parameter}`, detail: expect.stringContaining(why) });
    expect(text.length).toBeLessThan(1000);
    expect(hosts.orders).toEqual([]);
  });

  test('of a page of another origin', async () => {
    const { host, port } = new URL(api.base);
    const odd = [
      'null',
      '',
      '*',
      host,
      `//${host}`,
      `${api.base}/`,
      `${api.base}/page`,
      `${api.base}.evil.example`,
      `${api.base}, ${api.base}`,
    ];
    const others = [
      'https://elsewhere.example',
      `http://localhost:${port}`,
      `ftp://${host}`,
      `file://${host}`,
      `http://user@${host}`,
    ];
    const tricks = [
      `${api.base}#@evil.example`,
      `http://evil.example#${host}`,
      `http://evil.example\\@${host}`,
      `http://${host}@evil.example`,
    ];
    for (const origin of [...odd, ...others, ...tricks])
      expect([origin, await refused(api.alice, exec(), { headers: { origin } })]).toEqual([origin, '403']);
    expect(hosts.orders).toEqual([]);
    const own = await connect(api.alice, exec(), { headers: { origin: api.base } });
    own.socket.close(1000);
    await own.closed;
  });

  test('of a host without the token of an order, or with one that was taken', async () => {
    const at = (id: string, token: string) =>
      refused(null, `/internal/streams/${id}`, { protocol: 'v1.host-stream.berth', headers: { 'berth-stream-token': token } });
    expect(await at('none', 'none')).toBe('403');
    const { socket, closed } = await connect(api.alice, exec());
    const { id, token } = hosts.orders.at(-1)!;
    expect(await at(id, token)).toBe('403');
    socket.close(1000);
    await closed;
  });
});

test('a session ends within two seconds of the revocation of its key, in the guest as well', async () => {
  const key = (await api.call<{ id: string; key: string }>(api.alice, 'POST', '/v1/keys', { json: {} })).body;
  const { closed } = await connect({ ...api.alice, keyId: key.id, key: key.key }, exec());
  const since = performance.now();
  expect((await api.call(api.alice, 'DELETE', `/v1/keys/${key.id}`)).status).toBeLessThan(300);
  await closed;
  expect(performance.now() - since).toBeLessThan(2000);
  await expect.poll(() => hosts.last).toBe('close');
});

test('a client that leaves for another time detaches its session, and one that closes ends it', async () => {
  const left = await connect(api.alice, exec());
  left.socket.terminate();
  await expect.poll(() => hosts.last).toBe('detach');
  const ended = await connect(api.alice, exec());
  ended.socket.close(1000);
  await ended.closed;
  await expect.poll(() => hosts.last).toBe('close');
});

describe('the console of a VM', () => {
  const console = (query = ''): string => `/v1/vms/${vm}/console${query}`;

  test('is passed on both ways, with places by which a client goes on, and is an event', async () => {
    const { socket, received, closed } = await connect(api.alice, console('?tail=10&write=true'));
    await expect.poll(() => hosts.console.orders).toEqual([{ place: null, tailBytes: 10, write: true }]);
    hosts.console.write('login: ', { file: 'host-a.1.1', at: 5 });
    await expect.poll(() => received.get(1)).toBe('login: ');
    expect(received.get(5)).toContain('"place":"host-a.1.1:12"');
    socket.send(Buffer.from('\0root\r'));
    await expect.poll(() => hosts.console.typed).toBe('root\r');
    const events = await api.ledger.event.findMany({ where: { type: 'berth.vm.sessionOpened', subject: vm } });
    expect(events.map(({ data }) => data)).toContainEqual(expect.objectContaining({ kind: 'console', key: api.alice.keyId }));
    hosts.lose();
    await expect
      .poll(() => hosts.console.orders.at(-1))
      .toEqual({ place: { file: 'host-a.1.1', at: 12 }, tailBytes: 10, write: true });
    socket.close(1000);
    await closed;
  });

  test('is not taken back by a client that another one has taken it from', async () => {
    const { socket, received, closed } = await connect(api.alice, console('?write=true&place=host-a.1.1:7'));
    await expect.poll(() => hosts.console.orders.length).toBe(1);
    hosts.console.report({ writing: false });
    await expect.poll(() => received.get(5)).toBe('{"writing":false}');
    hosts.lose();
    await expect.poll(() => hosts.console.orders.at(-1)).toMatchObject({ place: { file: 'host-a.1.1', at: 7 }, write: false });
    socket.close(1000);
    await closed;
  });

  test('has what was typed while the connection behind the API was lost, once, and no more than a host would keep', async () => {
    const { socket, closed } = await connect(api.alice, console('?write=true'));
    await expect.poll(() => hosts.console.orders.length).toBe(1);
    let isAway = true;
    let attempts = 0;
    api.workflows.requested.openStream = async (order) => {
      attempts += 1;
      if (isAway) throw new BerthError('conflict', 'it moves');
      await hosts.open(order);
    };
    hosts.lose();
    await expect.poll(() => attempts).toBeGreaterThan(0);
    const typed = ['ro', 'ot\r', 'x'.repeat(30_000), 'y'.repeat(30_000)];
    for (const text of [...typed, 'z'.repeat(30_000)]) socket.send(Buffer.from(`\0${text}`));
    socket.ping();
    await once(socket, 'pong');
    isAway = false;
    await expect.poll(() => hosts.console.typed.length).toBe(typed.join('').length);
    expect(hosts.console.typed).toBe(typed.join(''));
    socket.send(Buffer.from('\0!'));
    await expect.poll(() => hosts.console.typed).toBe(`${typed.join('')}!`);
    const { length } = hosts.console.orders;
    hosts.lose();
    await expect.poll(() => hosts.console.orders.length).toBe(length + 1);
    socket.send(Buffer.from('\0?'));
    await expect.poll(() => hosts.console.typed).toBe(`${typed.join('')}!?`);
    socket.close(1000);
    await closed;
  });

  test('refuses a place that it has not given', async () => {
    expect(await refused(api.alice, console('?place=nowhere'))).toBe('400');
    expect(await refused(api.bob, console())).toBe('404');
  });
});

describe('the idle limit', () => {
  let idle: RunningApi;
  let silent: string;
  let host: ReturnType<typeof hostOf>;
  beforeAll(async () => {
    ({ api: idle, vm: silent } = await startApiWithVm({ BERTH_SESSION_IDLE_S: '1' }));
    host = hostOf(idle.base);
    idle.workflows.requested.openStream = host.open;
  });
  afterAll(() => idle.end());

  async function open(path: string, protocol: string) {
    const url = new URL(`/v1/vms/${silent}/${path}`, idle.base.replace('http', 'ws'));
    const socket = new WebSocket(url, protocol, { headers: { authorization: `Bearer ${idle.alice.key}` } });
    const sinceMs = performance.now();
    let status = '';
    socket.on('message', (data: Buffer) => {
      if (data[0] === 3) status += String(data.subarray(1));
    });
    const closed = once(socket, 'close').then(([code, reason]) => ({
      code: code as number,
      reason: String(reason),
      afterMs: performance.now() - sinceMs,
      status,
    }));
    await once(socket, 'open');
    return { socket, closed };
  }

  test.each(['v1.stream.berth', 'v5.channel.k8s.io'])(
    'ends a session over %s in the guest as well, with its reason',
    async (protocol) => {
      const { closed } = await open('exec?command=cat&stdin=true', protocol);
      const { code, status, afterMs } = await closed;
      expect([code, JSON.parse(status)]).toEqual([1000, expect.objectContaining({ status: 'Failure', reason: 'IdleTimeout' })]);
      expect(afterMs).toBeGreaterThan(900);
      await expect.poll(() => host.last).toBe('close');
    },
  );

  const signs: [string, (socket: WebSocket) => void][] = [
    ['output', () => host.output('x')],
    ['input', (socket) => socket.send(Buffer.from('\0x'))],
    ['a size', (socket) => socket.send(Buffer.from('\u0004{"Width": 80, "Height": 24}'))],
  ];
  // Each takes its seconds.
  test.each(isFull ? signs : signs.slice(0, 1))('does not end one that has %s now and then', async (_, act) => {
    const { socket, closed } = await open('exec?command=cat&stdin=true', 'v1.stream.berth');
    for (let times = 0; times < 5; times += 1) {
      await new Promise((resolve) => setTimeout(resolve, 400));
      act(socket);
    }
    expect(socket.readyState).toBe(WebSocket.OPEN);
    expect((await closed).afterMs).toBeGreaterThan(2900);
  });

  test('ends a session in the guest of a client that is gone without a word', async () => {
    const { socket, closed } = await open('exec?command=cat&stdin=true', 'v1.stream.berth');
    socket.pause();
    await expect.poll(() => host.last, { timeout: 4000 }).toBe('close');
    socket.terminate();
    await closed;
  });

  test('ends a connection to a console, and leaves the console', async () => {
    const { closed } = await open('console', 'v1.stream.berth');
    expect(await closed).toMatchObject({ code: 1000, reason: 'nothing came from either end for 1 s' });
  });
});
