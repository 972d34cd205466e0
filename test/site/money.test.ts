import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { fractionOf, nextState } from '../../scheduler/simulation/mulberry32.ts';
import { crowded, drainSoon, openAgain, setSchedulable, untilDrain } from './drains.ts';
import {
  addPrices,
  adjust,
  balanceOf,
  billOf,
  expectBooksInOrder,
  makeDue,
  openClientAccount,
  type Prices,
} from './market-site.ts';
import { askMove, copiesOf, moveOver } from './moves.ts';
import { berthArgv, start, startVm } from './reach/berth.ts';
import { vmOf, vmUntil, warm } from './subjects.ts';
import { expectNothingLeft, expectOneCompletion, openSite, type TestSite } from './the-site.ts';

/** Money on a whole site: real VMs, and what they are billed. */

let here: TestSite;
let account: string;
const units = 1_000_000n;
const settings = { ...crowded, BERTH_MONEY_GRACE_S: '2', BERTH_MONEY_KEEP_S: '45', BERTH_ALLOW_INTERNAL_URLS: '1' };

beforeAll(async () => {
  here = await openSite(3, settings);
  await warm(here);
  account = await openClientAccount(here, -1_000_000n * units);
});
afterAll(() => here.stop());

const prices = (vcpu: number, memory: number, disk: number): Prices => ({
  vcpuHourMicros: String(vcpu),
  memoryGiBHourMicros: String(memory),
  diskGiBHourMicros: String(disk),
});

/** Random numbers that are the same in every run. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = nextState(state);
    return Math.floor(fractionOf(state) * below);
  };
}

const partsPerMicro = 3_600_000n * 1024n;
function halfEven(parts: bigint): bigint {
  const [whole, rest] = [parts / partsPerMicro, (parts % partsPerMicro) * 2n];
  return rest > partsPerMicro || (rest === partsPerMicro && whole % 2n === 1n) ? whole + 1n : whole;
}

/** What usage costs, by its totals in the event of the end: apart from the code that bills it. */
function costOf(data: Record<string, unknown>, at: Prices): bigint {
  const ms = (name: string) => BigInt(Math.round(Number(data[name]) * 1000));
  return halfEven(
    ms('vcpuSeconds') * BigInt(at.vcpuHourMicros) * 1024n +
      ms('memoryMiBSeconds') * BigInt(at.memoryGiBHourMicros) +
      ms('diskMiBSeconds') * BigInt(at.diskGiBHourMicros),
  );
}

interface QuoteAnswer {
  price: { quote: string; totalMicros: string } | null;
}

test('of 100 random tasks each bill is its quote’s prices × the metered usage, and never above the quote', async () => {
  const { client } = here;
  const random = randomNumbers(20_261_130);
  let current = prices(3_600_017, 360_011, 36_007);
  await addPrices(here, current);
  const before = await balanceOf(here, account);
  let [charged, capped, dearer] = [0n, 0, 0];
  const kinds: Record<string, number> = {};
  const one = async (): Promise<void> => {
    const lease = { kind: 'bestEffort', durationS: [5, 60, 600][random(3)]!, preemptible: random(2) === 0 };
    const memoryMiB = [128, 192][random(2)]!;
    const order = {
      image: 'debian-12',
      resources: { vcpus: 1, memoryMiB, diskMiB: 16 + random(48) },
      nodes: 1 + (random(8) === 0 ? 1 : 0),
      lease,
    };
    const at = current;
    const quoted = await client.callWithRetry<QuoteAnswer>('POST', '/v1/quotes', order);
    expect(quoted.status, JSON.stringify(quoted.body)).toBe(200);
    const { quote, totalMicros } = quoted.body.price!;
    if (random(10) === 0) {
      // Dearer for those that come after it: not for this one.
      dearer += 1;
      current = prices(
        Number(at.vcpuHourMicros) + 100_003,
        Number(at.memoryGiBHourMicros) + 10_007,
        Number(at.diskGiBHourMicros) + 1009,
      );
      await addPrices(here, current);
    }
    const command = [['true'], ['sh', '-c', 'exit 3'], ['sleep', '2'], ['sleep', '500']][random(4)]!;
    const task = await client.submit({ ...order, quote, command, timeoutS: lease.durationS === 5 ? 8 : 600 });
    // One of five seconds is ended by its time limit, after more than its quote was for; the others by their owner.
    if (command[1] === '500' && lease.durationS !== 5) {
      await client.until(task.id, ['running', 'failed']);
      await client.callWithRetry('DELETE', `/v1/tasks/${task.id}`);
    }
    const ended = await client.over(task.id, 600);
    kinds[ended.state] = (kinds[ended.state] ?? 0) + 1;
    const data = await expectOneCompletion(client, ended);
    const bill = await billOf(here, task.id);
    const due = costOf(data, at);
    const total = BigInt(totalMicros);
    expect(bill).toMatchObject({ quote, totalMicros, heldMicros: '0', uncollectedMicros: '0', endedAt: expect.any(String) });
    expect(BigInt(bill.chargedMicros), JSON.stringify({ bill, data })).toBe(due < total ? due : total);
    if (due > total) capped += 1;
    charged += due < total ? due : total;
  };
  const lane = async (count: number): Promise<void> => {
    for (let n = 0; n < count; n += 1) await one();
  };
  await Promise.all([lane(25), lane(25), lane(25), lane(25)]);
  expect(before - (await balanceOf(here, account))).toBe(charged);
  expect(capped).toBeGreaterThan(0);
  expect(dearer).toBeGreaterThan(0);
  console.log(JSON.stringify({ ...kinds, capped, dearer, chargedMicros: String(charged) }));
  await expectBooksInOrder(here);
  await expectNothingLeft(here);
}, 1_800_000);

test('money that ends in a migration, a suspension and a drain: suspended, then removed, nothing held by a host, and books in order', async () => {
  const { client, site } = here;
  await addPrices(here, prices(3_600_000_000, 0, 0));
  const [first, second] = site.hosts.map(({ id }) => id) as [string, string];
  const vms: string[] = [];
  const balance = await balanceOf(here, account);
  // The hold of an hour of each, and nothing more: the credit of the account is a million units.
  await adjust(here, account, 3n * 3600n * units - (balance + 1_000_000n * units));
  for (const name of ['moves', 'sleeps', 'drained']) {
    await setSchedulable(
      here,
      site.hosts.map(({ id }) => id),
      false,
    );
    await setSchedulable(here, [name === 'drained' ? second : first], true);
    vms.push(await startVm(here, name));
  }
  await setSchedulable(
    here,
    site.hosts.map(({ id }) => id),
    true,
  );
  const [moves, sleeps] = vms as [string, string];
  const target = site.hosts[2]!.id;
  const drain = await drainSoon(here, second, 1000);
  const migration = await askMove(here, moves, { to: target, mode: 'live' });
  expect(migration.status).toBe(202);
  expect((await client.callWithRetry('POST', `/v1/vms/${sleeps}/suspend`)).status).toBe(202);
  await makeDue(here, vms);
  expect((await moveOver(here, migration.body.id)).state).toBe('succeeded');
  expect((await untilDrain(here, drain.id)).state).toBe('empty');
  for (const vm of vms) {
    await expect.poll(async () => (await billOf(here, vm)).suspendedAt, { timeout: 240_000, interval: 500 }).not.toBeNull();
    await vmUntil(here, vm, 'suspended', ({ state }) => state === 'suspended' || state === 'removed');
    expect((await copiesOf(here, vm)).filter(({ state }) => state === 'running')).toEqual([]);
  }
  for (const vm of vms)
    await expect.poll(async () => (await vmOf(here, vm)).state, { timeout: 300_000, interval: 500 }).toBe('removed');
  for (const vm of vms) {
    const bill = await billOf(here, vm);
    expect(bill).toMatchObject({ heldMicros: '0', uncollectedMicros: '0', endedAt: expect.any(String) });
    const types = (await client.eventsOf(bill.lease)).map(({ type }) => type.replace('berth.bill.', ''));
    expect(types).toEqual(['warned', 'suspended', 'removed', 'settled']);
    const states = (await client.eventsOf(vm)).map(({ type }) => type.replace('berth.vm.', ''));
    expect(states.indexOf('suspended')).toBeLessThan(states.indexOf('removed'));
    expect(states).toContain('suspended');
  }
  await expectBooksInOrder(here);
  await expectNothingLeft(here);
  await openAgain(here, second);
  await adjust(here, account, 1_000_000n * units);
}, 1_200_000);

interface Taken {
  sequence: number;
  type: string;
  subject: string;
}

/** Takes events as a developer's program would: verifies each, and refuses every fifth, which comes again before the next one. */
async function openReceiver(key: Buffer) {
  const taken: Taken[] = [];
  const wrong: string[] = [];
  let requests = 0;
  const server = createServer(async (req, res) => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString('utf8');
    const signed = `${req.headers['webhook-id']}.${req.headers['webhook-timestamp']}.${body}`;
    const signature = `v1,${createHmac('sha256', key).update(signed).digest('base64')}`;
    if (req.headers['webhook-signature'] !== signature) wrong.push(body);
    requests += 1;
    if (requests % 5 === 0) return res.writeHead(500).end();
    const { sequence, type, subject } = JSON.parse(body) as { sequence: string; type: string; subject: string };
    taken.push({ sequence: Number(sequence), type, subject });
    return res.end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { port: (server.address() as AddressInfo).port, taken, wrong, close };
}

/** In order, where what comes again was taken before. */
function firsts(taken: readonly Taken[]): Taken[] {
  const found: Taken[] = [];
  for (const one of taken) if (one.sequence > (found.at(-1)?.sequence ?? 0)) found.push(one);
  const known = new Set(found.map(({ sequence }) => sequence));
  expect(taken.filter(({ sequence }) => !known.has(sequence))).toEqual([]);
  return found;
}

async function killed(name: 'api' | 'control' | 'temporal' | 'postgres'): Promise<void> {
  const child = here.site.child(name);
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.untilReadyAgain(restarts, 60_000);
}

test('a webhook and `berth webhooks listen` bring each event, signed, in order and none left out, whatever of the site is killed', async () => {
  const { client } = here;
  const keys = [Buffer.alloc(32, 7), Buffer.alloc(32, 8)] as const;
  const secretOf = (key: Buffer) => `whsec_${key.toString('base64')}`;
  const receivers = await Promise.all(keys.map(openReceiver));
  const [hooked, local] = receivers as [(typeof receivers)[0], (typeof receivers)[0]];
  // Of a type that no event has: the cursor after the newest.
  const { body } = await client.callWithRetry<{ next: string }>('GET', '/v1/events?type=none');
  const words = ['webhooks', 'listen', `${local.port}/hook`, '--secret', secretOf(keys[1]), '--after', body.next];
  const listening = start(here, berthArgv(...words));
  try {
    const order = { url: `http://127.0.0.1:${hooked.port}/`, secret: secretOf(keys[0]) };
    const added = await client.callWithRetry('POST', '/v1/webhooks', order, { 'idempotency-key': crypto.randomUUID() });
    expect(added.status, JSON.stringify(added.body)).toBe(201);
    const ids: string[] = [];
    for (const party of ['api', 'control', 'temporal', 'postgres', 'api'] as const) {
      const task = await client.submit({ image: 'debian-12', command: ['true'] });
      ids.push(task.id);
      await killed(party);
      expect((await client.over(task.id)).state).toBe('succeeded');
    }
    for (const { taken, wrong } of receivers) {
      for (const id of ids) {
        const types = (await client.eventsOf(id)).map(({ type }) => type);
        const came = () => firsts(taken).flatMap(({ subject, type }) => (subject === id ? [type] : []));
        await expect.poll(came, { timeout: 120_000 }).toEqual(types);
      }
      expect(wrong).toEqual([]);
    }
  } finally {
    listening.child.kill('SIGINT');
    await listening.ended;
    for (const { close } of receivers) await close();
  }
}, 900_000);
