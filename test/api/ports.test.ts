import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { EdgeAnswer, EdgeReport } from '../../contracts/edge.ts';
import { newId } from '../../model/ids.ts';
import { edgeKeyOf, hostKeyOf } from '../../model/repository/host-key.ts';
import { type Page, type ProblemBody, type RunningApi, startApi } from './running-api.ts';

interface PortBody {
  id: string;
  vm: string;
  publicAddress: string;
  publicPort: number;
  state: string;
  waitsFor: string | null;
  allow: string[];
  code: string;
  errors: { pointer: string }[];
}

let api: RunningApi;
let vm: string;
beforeAll(async () => {
  api = await startApi({
    BERTH_PUBLIC_ADDRESSES: '203.0.113.7,203.0.113.8',
    BERTH_PUBLIC_PORTS: '20000-20009',
    BERTH_MAX_PORTS_PER_OWNER: '14',
  });
  await api.addImage('debian-12');
  await api.addHost('host-a');
  const network = { id: newId('network'), vni: 7, cidr: '10.128.0.0/22', gateway: '10.128.0.1' };
  await api.ledger.network.create({ data: { ownerId: api.alice.ownerId, ...network } });
  vm = await createVm('web', '10.128.0.9');
});
afterAll(() => api.end());

async function createVm(name: string, address: string): Promise<string> {
  const { id } = (await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json: { name, image: 'debian-12' } })).body;
  await api.ledger.vm.update({ where: { id }, data: { address } });
  await api.runOn(id, 'host-a');
  return id;
}

const publish = (json: object, headers: Record<string, string> = {}, party = api.alice, of = vm) =>
  api.call<PortBody>(party, 'POST', `/v1/vms/${of}/ports`, { json, headers });
const withdraw = (id: string, party = api.alice) => api.fetch(party, 'DELETE', `/v1/vms/${vm}/ports/${id}`);
const portsOf = async (party = api.alice) => (await api.call<Page<PortBody>>(party, 'GET', '/v1/ports')).body.items;

const before: EdgeReport = { address: '192.0.2.221', turn: null, epoch: null, version: null, ports: null, problem: null };
const exchange = async (report: EdgeReport, edge = 'edge1', key = edgeKeyOf(api.signingKey, edge)) => {
  const response = await fetch(`${api.base}/internal/edges/${edge}/orders`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(report),
  });
  return { status: response.status, body: (await response.json()) as EdgeAnswer };
};
/** An edge that applies what it is answered, once. */
async function passOfEdge(): Promise<void> {
  const { body } = await exchange(before);
  const orders = body.orders!;
  const ports = Object.fromEntries(orders.ports.map(({ id, digest }) => [id, digest]));
  await exchange({ ...before, turn: body.turn, epoch: body.epoch, version: body.version, ports });
}

describe('a published port', () => {
  test('has one public port for each idempotency key, and is active once the edge has it', async () => {
    const headers = { 'idempotency-key': 'one' };
    const json = { port: 80, allow: ['198.51.100.0/24', '192.0.2.1'] };
    const first = await publish(json, headers);
    expect(first.status).toBe(202);
    expect(first.body).toMatchObject({ vm, state: 'pending', waitsFor: 'edge', allow: ['198.51.100.0/24', '192.0.2.1/32'] });
    expect(first.headers.get('location')).toBe(`/v1/vms/${vm}/ports/${first.body.id}`);
    expect((await publish(json, headers)).text).toBe(first.text);
    expect((await publish({ port: 81 }, headers)).body.code).toBe('idempotency-mismatch');
    await passOfEdge();
    const path = `/v1/vms/${vm}/ports/${first.body.id}`;
    expect((await api.call<PortBody>(api.alice, 'GET', path)).body).toMatchObject({ state: 'active', waitsFor: null });
    expect((await withdraw(first.body.id)).status).toBe(202);
    expect((await api.call<PortBody>(api.alice, 'GET', path)).body.state).toBe('removing');
    await passOfEdge();
    expect((await api.fetch(api.alice, 'GET', path)).status).toBe(404);
    const events = await api.ledger.event.findMany({ where: { subject: first.body.id }, orderBy: { seq: 'asc' } });
    expect(events.map(({ type }) => type)).toEqual(['berth.port.published', 'berth.port.withdrawn']);
  });

  test('is of its owner alone', async () => {
    const { body } = await publish({ port: 80 });
    expect((await publish({ port: 80 }, {}, api.bob)).status).toBe(404);
    expect((await withdraw(body.id, api.bob)).status).toBe(404);
    expect((await api.fetch(api.bob, 'GET', `/v1/vms/${vm}/ports/${body.id}`)).status).toBe(404);
    expect((await api.fetch(api.bob, 'GET', `/v1/vms/${vm}/ports`)).status).toBe(404);
    expect(await portsOf(api.bob)).toEqual([]);
    expect((await portsOf()).map(({ id }) => id)).toContain(body.id);
    expect((await portsOf(api.operator)).map(({ id }) => id)).toContain(body.id);
    expect((await api.fetch(api.alice, 'GET', '/v1/edges')).status).toBe(403);
    expect((await withdraw(body.id, api.operator)).status).toBe(202);
    await passOfEdge();
  });

  test.each([
    ['no port', {}, '/port'],
    ['port 0', { port: 0 }, '/port'],
    ['another protocol', { port: 80, protocol: 'sctp' }, '/protocol'],
    ['a public port outside of the range', { port: 80, publicPort: 443 }, '/publicPort'],
    ['clients with bits behind their prefix', { port: 80, allow: ['198.51.100.7/24'] }, '/allow/0'],
    ['clients of 17 networks', { port: 80, allow: Array.from({ length: 17 }, (_, n) => `10.0.${n}.0/24`) }, '/allow'],
    ['clients that are a text of 50 KB', { port: 80, allow: [`expected ${', received '.repeat(4500)}\n`] }, '/allow/0'],
    ['clients with a zero before a number', { port: 80, allow: ['010.0.0.1'] }, '/allow/0'],
    ['clients that are no text', { port: 80, allow: [{ toString: '10.0.0.1' }] }, '/allow/0'],
    ['half a port', { port: 80.5 }, '/port'],
    ['port 65536', { port: 65_536 }, '/port'],
    ['a port before the first', { port: -1 }, '/port'],
    ['a port that is a text', { port: '80' }, '/port'],
    ['a public port 65536', { port: 80, publicPort: 65_536 }, '/publicPort'],
    ['a public port 0', { port: 80, publicPort: 0 }, '/publicPort'],
    ['a protocol in capitals', { port: 80, protocol: 'TCP' }, '/protocol'],
    ['all addresses of IPv6', { port: 80, allow: ['::/0'] }, '/allow/0'],
    ['an IPv4 address in IPv6', { port: 80, allow: ['::ffff:10.0.0.1'] }, '/allow/0'],
    ['a prefix of 33 bits', { port: 80, allow: ['10.0.0.0/33'] }, '/allow/0'],
    ['a prefix that is a mask', { port: 80, allow: ['10.0.0.0/255.0.0.0'] }, '/allow/0'],
    ['all addresses with bits behind the prefix', { port: 80, allow: ['0.0.0.1/0'] }, '/allow/0'],
    ['a prefix below zero', { port: 80, allow: ['10.0.0.0/-1'] }, '/allow/0'],
    ['a list in one text', { port: 80, allow: ['10.0.0.1,10.0.0.2'] }, '/allow/0'],
    ['another line of rules', { port: 80, allow: ['10.0.0.1\n-A X'] }, '/allow/0'],
    ['a space', { port: 80, allow: [' 10.0.0.1'] }, '/allow/0'],
    ['clients with IPv6', { port: 80, allow: ['2001:db8::/32'] }, '/allow/0'],
    ['a PROXY protocol', { port: 80, proxyProtocol: 'v2' }, '/'],
  ])('is refused with %s', async (_, json, pointer) => {
    const { status, body } = await publish(json);
    expect([status, body.code]).toEqual([400, 'bad-request']);
    expect(JSON.stringify(body.errors).length).toBeLessThan(2000);
    expect(body.errors.map((error) => error.pointer).join()).toContain(pointer);
  });

  test('has a public port that nobody else has, for all that ask at once, within the quota', async () => {
    const taken = await publish({ port: 80, publicPort: 20_004 });
    expect(taken.body).toMatchObject({ publicAddress: '203.0.113.7', publicPort: 20_004 });
    expect((await publish({ port: 81, publicPort: 20_004 })).body).toMatchObject({ publicAddress: '203.0.113.8' });
    expect((await publish({ port: 82, publicPort: 20_004 })).body.code).toBe('conflict');
    expect((await publish({ port: 82, publicPort: 20_004, protocol: 'udp' })).status).toBe(202);
    const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => publish({ port: 1000 + index })));
    expect(answers.map(({ status }) => status).filter((status) => status === 202)).toHaveLength(11);
    expect(answers.find(({ status }) => status !== 202)?.body.code).toBe('quota-exceeded');
    const all = await portsOf();
    expect(new Set(all.map(({ publicAddress, publicPort }) => `${publicAddress}:${publicPort}`)).size).toBe(all.length - 1);
    const me = await api.call<{ quotas: { ports: object } }>(api.alice, 'GET', '/v1/me');
    expect(me.body.quotas.ports).toEqual({ limit: 14, used: 14 });
    for (const { id } of all) await withdraw(id);
    await passOfEdge();
    expect(await portsOf()).toEqual([]);
  });

  test('may be asked for with a new VM or task, and ends at once with one that was never placed', async () => {
    const order = { name: 'shop', image: 'debian-12', ports: [{ port: 80 }, { port: 53, protocol: 'udp' }] };
    const created = await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json: order });
    expect(created.status).toBe(202);
    expect(await portsOf()).toMatchObject([
      { vm: created.body.id, state: 'pending', waitsFor: 'vm' },
      { vm: created.body.id, state: 'pending', waitsFor: 'vm' },
    ]);
    const twice = { ...order, name: 'two', ports: [{ port: 80 }, { port: 80 }] };
    expect((await api.call(api.alice, 'POST', '/v1/vms', { json: twice })).status).toBe(400);
    await api.ledger.vm.update({ where: { id: created.body.id }, data: { state: 'removed' } });
    expect(await portsOf()).toEqual([]);
    const task = { image: 'debian-12', command: ['serve'], nodes: 2, ports: [{ port: 8080 }] };
    expect((await api.call(api.alice, 'POST', '/v1/tasks', { json: task })).status).toBe(202);
    expect((await portsOf()).map(({ vm: of }) => of)).toHaveLength(2);
    const fixed = { ...task, ports: [{ port: 8080, publicPort: 20_001 }] };
    const refused = await api.call<{ errors: { pointer: string }[] }>(api.alice, 'POST', '/v1/tasks', { json: fixed });
    expect([refused.status, refused.body.errors[0]?.pointer]).toEqual([400, '/ports/0/publicPort']);
  });

  test('with a text of a megabyte is refused in no time, where bodies may be that long', async () => {
    const ports = [{ port: 80, allow: [`expected ${', received '.repeat(90_000)}\n`] }];
    const beganMs = performance.now();
    const answer = await api.call<ProblemBody>(api.alice, 'POST', '/v1/vms', {
      json: { name: 'web', image: 'debian-12', ports },
    });
    expect([answer.status, answer.body.errors.map(({ pointer }) => pointer)]).toEqual([400, ['/ports/0/allow/0']]);
    expect(answer.text.length).toBeLessThan(2000);
    // It took minutes, in which the process answered nobody.
    expect(performance.now() - beganMs).toBeLessThan(10_000);
  });

  test('with everybody as its clients, said so, is one that everybody reaches', async () => {
    const { status, body } = await publish({ port: 80, allow: ['0.0.0.0/0', '255.255.255.255'] });
    expect([status, body.allow]).toEqual([202, ['0.0.0.0/0', '255.255.255.255/32']]);
    expect((await exchange(before)).body.orders!.ports).toMatchObject([{ id: body.id, allow: body.allow }]);
    await withdraw(body.id);
    await passOfEdge();
  });

  test('at one public port asked for by many at once is of one of them at each address', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => publish({ port: 100 + n, publicPort: 20_007 })));
    const taken = answers.filter(({ status }) => status === 202);
    expect(taken.map(({ body }) => body.publicAddress).toSorted()).toEqual(['203.0.113.7', '203.0.113.8']);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(6);
    for (const { body } of taken) await withdraw(body.id);
    await passOfEdge();
  });

  test('of a VM that is removed meanwhile is refused, or goes with it', async () => {
    for (let round = 0; round < 5; round += 1) {
      const leaving = await createVm(`leaving-${round}`, `10.128.0.${100 + round}`);
      const [removal, ...answers] = await Promise.all([
        api.fetch(api.alice, 'DELETE', `/v1/vms/${leaving}`),
        ...Array.from({ length: 6 }, (_, n) => publish({ port: 200 + n }, {}, api.alice, leaving)),
      ]);
      expect(removal.status).toBe(202);
      for (const { status } of answers) expect([202, 409]).toContain(status);
      const accepted = answers.filter(({ status }) => status === 202).length;
      expect((await portsOf()).filter(({ vm: of }) => of === leaving)).toHaveLength(accepted);
      // Its workflow ends it: in the ledger alone, whose trigger withdraws what there is.
      await api.ledger.vm.update({ where: { id: leaving }, data: { state: 'removing' } });
      expect((await portsOf()).filter(({ vm: of, state }) => of === leaving && state !== 'removing')).toEqual([]);
      await passOfEdge();
      expect((await portsOf()).filter(({ vm: of }) => of === leaving)).toEqual([]);
    }
  });

  test('is refused of a VM that ends', async () => {
    const ending = await createVm('ending', '10.128.0.77');
    expect((await api.fetch(api.alice, 'DELETE', `/v1/vms/${ending}`)).status).toBe(202);
    expect((await publish({ port: 80 }, {}, api.alice, ending)).body.code).toBe('conflict');
  });
});

describe('the exchange of an edge', () => {
  test('takes its own key alone', async () => {
    const keys = [
      'nothing',
      api.alice.key,
      edgeKeyOf(api.signingKey, 'edge2'),
      hostKeyOf(api.signingKey, 'edge1'),
      edgeKeyOf('another signing key, as long as that', 'edge1'),
    ];
    for (const key of keys) expect((await exchange(before, 'edge1', key)).status).toBe(401);
    expect((await exchange(before)).status).toBe(200);
  });

  test('is refused to a second machine with its id, and with its address', async () => {
    await exchange(before);
    expect((await exchange({ ...before, address: '192.0.2.222' })).status).toBe(409);
    expect((await exchange(before, 'edge2')).status).toBe(409);
  });

  test('shows operators the edges', async () => {
    await exchange({ ...before, problem: 'no such table' });
    const { body } = await api.call<Page<object>>(api.operator, 'GET', '/v1/edges');
    expect(body.items).toMatchObject([{ id: 'edge1', state: 'up', active: true, problem: 'no such table' }]);
  });
});

test('an edge that does not return is removed, and one that answers is not', async () => {
  await exchange(before);
  const remove = (id: string) => api.fetch(api.operator, 'DELETE', `/v1/edges/${id}`);
  expect([(await remove('edge1')).status, (await remove('nothing')).status]).toEqual([409, 404]);
  await api.ledger.edge.update({ where: { id: 'edge1' }, data: { seenAt: new Date(Date.now() - 6000) } });
  expect((await remove('edge1')).status).toBe(204);
  expect((await api.call<Page<object>>(api.operator, 'GET', '/v1/edges')).body.items).toEqual([]);
  expect((await exchange(before)).body.epoch).toBe(1);
});

test('a site without public addresses publishes nothing', async () => {
  const other = await startApi();
  try {
    await other.addImage('debian-12');
    const json = { name: 'web', image: 'debian-12', ports: [{ port: 80 }] };
    expect((await other.call<{ code: string }>(other.alice, 'POST', '/v1/vms', { json })).body.code).toBe('conflict');
  } finally {
    await other.end();
  }
});
