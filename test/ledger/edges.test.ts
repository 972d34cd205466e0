import { beforeEach, describe, expect, it } from 'vitest';
import type { EdgeAnswer, EdgeReport } from '../../contracts/edge.ts';
import { acceptEdgeReport } from '../../ledger/edges/accept-edge-report.ts';
import { readMachines } from '../../ledger/hosts/read-machines.ts';
import { insertPorts } from '../../ledger/ports/insert-ports.ts';
import { changePortWithdrawn } from '../../ledger/ports/request-port.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { VmId } from '../../model/ids.ts';
import { PortRequest } from '../../model/network/published-port.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { isFull } from '../tier.ts';
import { addImage, addOwner, empty, failure, hostFacts, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const publicAddresses = ['203.0.113.7'];
const site = { addresses: publicAddresses, first: 20_000, last: 20_100 };
let owner: string;
let vm: VmId;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  await fixture.activities.registerHost(hostFacts('h1', { vcpus: 8, memoryMiB: 8192, diskMiB: 40_000 }));
  vm = await runningVm('web');
});

async function runningVm(name: string): Promise<VmId> {
  const order = VmRequest.parse({ name, image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 100 } });
  const id = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
  await fixture.activities.reserveVm(id);
  await fixture.activities.setVmState(id, 'creating');
  await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'warm' });
  return id;
}

async function publish(port: number, of: VmId = vm): Promise<string> {
  const ports = [PortRequest.parse({ port })];
  const inserted = await fixture.ledger.$transaction((tx) =>
    insertPorts(tx, { owner, vms: [of], ports, site, nowMs: fixture.now, pointer: String }),
  );
  return inserted[0]!;
}

const addresses: Record<string, string> = { e1: '192.0.2.221', e2: '192.0.2.222' };

/** An edge that does what it is answered, as far as the test lets it. */
class Edge {
  report: EdgeReport;
  answer: EdgeAnswer | null = null;
  readonly #id: string;

  constructor(id: string) {
    this.#id = id;
    this.report = { address: addresses[id]!, turn: null, epoch: null, version: null, ports: null, problem: null };
  }

  exchange(report: EdgeReport = this.report): Promise<EdgeAnswer> {
    return acceptEdgeReport(fixture.ledger, { edge: this.#id, report, publicAddresses, nowMs: fixture.now });
  }

  async ask(): Promise<EdgeAnswer> {
    const answer = await this.exchange();
    this.answer = { ...answer, orders: answer.orders ?? this.answer?.orders ?? null };
    this.report = { ...this.report, turn: answer.turn, epoch: answer.epoch, version: answer.version };
    return answer;
  }

  apply(): void {
    this.report.ports = Object.fromEntries(this.answer!.orders!.ports.map(({ id, digest }) => [id, digest]));
  }

  /** Asks, applies and reports. */
  async pass(): Promise<EdgeAnswer> {
    await this.ask();
    this.apply();
    return this.ask();
  }
}

const stateOf = async (id: string) => (await fixture.ledger.publishedPort.findUnique({ where: { id } }))?.state ?? null;
const endLease = () => fixture.sql(`UPDATE "EdgeLease" SET until = clock_timestamp() - interval '1 ms'`);

describe('the lease of the public addresses', () => {
  it('is of one edge until it ends, and its number grows with each holder', async () => {
    const [first, second] = [new Edge('e1'), new Edge('e2')];
    expect([(await first.ask()).epoch, (await second.ask()).epoch, (await first.ask()).epoch]).toEqual([1, null, 1]);
    await endLease();
    expect((await first.ask()).epoch).toBe(1);
    await endLease();
    expect([(await second.ask()).epoch, (await first.ask()).epoch]).toEqual([2, null]);
  });

  it('goes to one of many that ask at once', async () => {
    const all = Array.from({ length: 8 }, (_, index) => {
      addresses[`m${index}`] = `192.0.2.${100 + index}`;
      return new Edge(`m${index}`);
    });
    const epochs = (await Promise.all(all.map((edge) => edge.ask()))).map(({ epoch }) => epoch);
    expect(epochs.filter((epoch) => epoch !== null)).toEqual([1]);
  });

  it('is renewed while others have the placement lock', async () => {
    await publish(80);
    const edge = new Edge('e1');
    await edge.ask();
    await fixture.sql('DELETE FROM "EdgeSegment"');
    const client = await fixture.pool.connect();
    try {
      await client.query('BEGIN; SELECT pg_advisory_xact_lock(7305, 2)');
      const answer = await edge.ask();
      // Without an address in the segment it can't lead there yet.
      expect([answer.epoch, answer.orders?.segments, answer.orders?.ports]).toEqual([1, [], []]);
    } finally {
      await client.query('COMMIT');
      client.release();
    }
    expect((await edge.ask()).orders?.ports).toHaveLength(1);
  });
});

describe('what an edge is to have', () => {
  it('is the ports of VMs with an address, in segments in which it has one that no VM gets', async () => {
    const id = await publish(80);
    const waiting = VmRequest.parse({ name: 'waits', image: 'debian-12' });
    const later = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order: waiting, nowMs: fixture.now }));
    await publish(80, later);
    const orders = (await new Edge('e1').ask()).orders!;
    const { address } = await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
    const network = await fixture.ledger.network.findUniqueOrThrow({ where: { ownerId: owner } });
    expect(orders.ports).toMatchObject([{ id, vni: network.vni, address, port: 80, publicAddress: '203.0.113.7' }]);
    expect(orders.segments).toEqual([{ vni: network.vni, cidr: network.cidr, address: '10.128.3.254' }]);
    expect((await new Edge('e2').ask()).orders?.segments[0]?.address).toBe('10.128.3.253');
    await fixture.activities.reserveVm(later);
    expect((await new Edge('e1').ask()).orders?.ports).toHaveLength(2);
    // Hosts learn of the edges as they do of each other.
    const machines = await readMachines(fixture.ledger, 'h1', 'none');
    expect(machines.addresses).toEqual(expect.arrayContaining(['192.0.2.221', '192.0.2.222']));
  });

  it('is answered again only when it has changed', async () => {
    const edge = new Edge('e1');
    expect((await edge.ask()).orders).not.toBeNull();
    expect((await edge.ask()).orders).toBeNull();
    await publish(80);
    expect((await edge.ask()).orders?.ports).toHaveLength(1);
  });
});

describe('a published port', () => {
  it('is active when the holder of the lease has it as it is now', async () => {
    const id = await publish(80);
    const [first, second] = [new Edge('e1'), new Edge('e2')];
    await first.ask();
    await second.pass();
    expect(await stateOf(id)).toBe('pending');
    first.report.ports = { [id]: '' };
    await first.ask();
    expect(await stateOf(id)).toBe('pending');
    expect((await first.pass()).wantsPorts).toBe(false);
    expect(await stateOf(id)).toBe('active');
    // It is another VM's address now: what the edge has is out of date.
    await fixture.sql(`UPDATE "Vm" SET address = '10.128.0.200' WHERE id = $1`, [vm]);
    expect(await stateOf(id)).toBe('pending');
    first.report.ports = { [id]: 'an earlier digest' };
    expect((await first.ask()).wantsPorts).toBe(true);
    expect(await stateOf(id)).toBe('pending');
    await first.pass();
    expect(await stateOf(id)).toBe('active');
  });

  it('is one of so many of an exchange, so that an edge is answered in time whatever number of them is new', async () => {
    const count = isFull ? 10_000 : 500;
    await publish(80);
    await fixture.ledger.publishedPort.createMany({
      data: Array.from({ length: count - 1 }, (_, n) => ({
        ...{ id: `port_${n}`, ownerId: owner, vmId: vm, protocol: n % 2 === 0 ? 'tcp' : 'udp', port: (n % 60_000) + 1 },
        ...{ publicAddress: publicAddresses[0]!, publicPort: 30_000 + Math.floor(n / 2), address: '10.128.0.9' },
      })),
    });
    const active = () => fixture.ledger.publishedPort.count({ where: { state: 'active' } });
    const edge = new Edge('e1');
    await edge.ask();
    edge.apply();
    const tookMs: number[] = [];
    for (let before = 0; before < count; before = await active()) {
      const sinceMs = performance.now();
      const { wantsPorts } = await edge.ask();
      tookMs.push(performance.now() - sinceMs);
      expect(await active()).toBe(Math.min(count, before + 200));
      expect(wantsPorts).toBe((await active()) < count);
    }
    await fixture.sql(`UPDATE "PublishedPort" SET state = 'removing'`);
    for (let exchanges = 0; (await fixture.ledger.publishedPort.count()) > 0; exchanges += 1) {
      expect(exchanges).toBeLessThan(count / 200 + 2);
      await edge.pass();
    }
    const sinceMs = performance.now();
    await edge.ask();
    console.log(
      `${count} ports in ${tookMs.length} exchanges of ${Math.round(Math.max(...tookMs))} ms at the most; then ${Math.round(performance.now() - sinceMs)} ms`,
    );
  });

  it('that is withdrawn stays until no edge can lead there any more', async () => {
    const id = await publish(80);
    const edge = new Edge('e1');
    await edge.pass();
    expect((await changePortWithdrawn(fixture.ledger, owner, vm, id))?.state).toBe('removing');
    // It has it, or may yet have it.
    await edge.ask();
    edge.report.ports = { [id]: '' };
    await edge.ask();
    expect(await stateOf(id)).toBe('removing');
    // Another edge's word does not count, nor what an exchange says that the edge has given up.
    await new Edge('e2').pass();
    const late = { ...edge.report, ports: {} };
    await edge.ask();
    await edge.exchange(late);
    expect(await stateOf(id)).toBe('removing');
    await edge.pass();
    await edge.pass();
    expect(await stateOf(id)).toBeNull();
  });

  it('that is withdrawn while an answer with it is on its way stays as well', async () => {
    const id = await publish(80);
    const edge = new Edge('e1');
    await edge.ask();
    edge.apply();
    const client = await fixture.pool.connect();
    try {
      await client.query(`BEGIN; UPDATE "PublishedPort" SET state = 'removing'`);
      const answer = edge.ask();
      await expect.poll(async () => (await fixture.sql(`SELECT FROM pg_locks WHERE NOT granted`)).length).toBeGreaterThan(0);
      await client.query('COMMIT');
      await answer;
    } finally {
      client.release();
    }
    expect(await stateOf(id)).toBe('removing');
  });

  it('ends with its VM, whose address nobody gets before', async () => {
    await fixture.sql(`UPDATE "Network" SET cidr = '10.128.0.0/29'`);
    await fixture.sql(`UPDATE "Vm" SET address = '10.128.0.2' WHERE id = $1`, [vm]);
    const id = await publish(80);
    const edge = new Edge('e1');
    await edge.pass();
    const own = edge.answer?.orders?.segments[0]?.address;
    const others = [await runningVm('a'), await runningVm('b'), await runningVm('c')];
    await fixture.activities.finishVm(vm, { endedAt: null, error: null });
    expect(await stateOf(id)).toBe('removing');
    const order = VmRequest.parse({ name: 'next', image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 16 } });
    const next = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
    expect(await fixture.activities.reserveVm(next)).toMatchObject({ placed: false, refusal: { failed: { address: 1 } } });
    await edge.pass();
    expect(await stateOf(id)).toBeNull();
    expect(await fixture.activities.reserveVm(next)).toMatchObject({ placed: true });
    const rows = await fixture.ledger.vm.findMany({ where: { id: { in: [...others, next] } }, select: { address: true } });
    const all = [own, ...rows.map(({ address }) => address)];
    expect(all.toSorted()).toEqual(['10.128.0.2', '10.128.0.3', '10.128.0.4', '10.128.0.5', '10.128.0.6'].toSorted());
  });

  it('ends at once where no edge can have had it', async () => {
    const order = VmRequest.parse({ name: 'waits', image: 'debian-12', resources: { vcpus: 8, memoryMiB: 256, diskMiB: 16 } });
    const later = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
    const [one, two] = [await publish(80, later), await publish(81, later)];
    expect(await changePortWithdrawn(fixture.ledger, owner, later, one)).toBeNull();
    await fixture.activities.finishVm(later, { endedAt: null, error: null });
    expect([await stateOf(one), await stateOf(two)]).toEqual([null, null]);
  });

  it('is not published anew while it is withdrawn, nor twice at one public port', async () => {
    const id = await publish(80);
    await new Edge('e1').pass();
    await changePortWithdrawn(fixture.ledger, owner, vm, id);
    expect(await failure(fixture.sql(`UPDATE "PublishedPort" SET state = 'active'`))).toMatchObject({ code: 'BE001' });
    const other = await publish(81);
    const same = `UPDATE "PublishedPort" SET "publicPort" = (SELECT "publicPort" FROM "PublishedPort" WHERE id = '${id}') WHERE id = '${other}'`;
    expect(await failure(fixture.sql(same))).toMatchObject({ code: '23505' });
  });
});

describe('a network without a free address', () => {
  it('keeps its own ports pending, and no port of another owner', async () => {
    await fixture.sql(`UPDATE "Network" SET cidr = '10.128.0.0/29'`);
    await fixture.sql(`UPDATE "Vm" SET address = '10.128.0.2' WHERE id = $1`, [vm]);
    await publish(80);
    for (const name of ['a', 'b', 'c', 'd']) await runningVm(name);
    expect((await new Edge('e1').ask()).orders).toMatchObject({ segments: [], ports: [] });
    owner = await addOwner(fixture, 'bob');
    const other = await publish(80, await runningVm('web'));
    expect((await new Edge('e1').ask()).orders?.ports.map(({ id }) => id)).toEqual([other]);
  });
});
