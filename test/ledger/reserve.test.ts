import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Placement } from '../../contracts/ledger-placement.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import { type UrlSignature, verifySignedUrl } from '../../model/signed-url.ts';
import type { VmSpec } from '../../model/vm.ts';
import { isFull } from '../tier.ts';
import {
  accept,
  addImage,
  addOwner,
  empty,
  failure,
  fetched,
  hex64,
  hostFacts,
  roomy,
  signingKey,
  usage,
  useLedger,
} from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
let image: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  image = await addImage(fixture);
});

function signatureOf({ searchParams }: URL): UrlSignature {
  const [expires, keyId, signature] = ['expires', 'key', 'signature'].map((name) => searchParams.get(name) ?? '') as [
    string,
    string,
    string,
  ];
  return { expires, keyId, signature };
}

const one = { vcpus: 1, memoryMiB: 256, diskMiB: 512 };
const arrive = (id: string, times: number, more = {}) =>
  fixture.activities.registerHost(hostFacts(id, { vcpus: times, memoryMiB: 256 * times, diskMiB: 512 * times }, more));
const reserve = (id: TaskId) => fixture.activities.reserveTask(id);
const where = (placement: Placement) => (placement.placed ? placement.vms.map((vm) => vm.host) : placement.refusal.failed);
const vmsOf = async (id: TaskId) => (await fixture.activities.loadTask(id)).vmIds;
const release = async (id: TaskId) => fixture.activities.releaseVms(await vmsOf(id));

async function neverExceeded(): Promise<void> {
  for (const host of await usage(fixture)) {
    expect(host.said).toEqual(host.summed);
    host.said.forEach((value, i) => {
      expect(value).toBeLessThanOrEqual(host.capacity[i] ?? 0);
    });
  }
}

async function placed(id: TaskId): Promise<VmSpec[]> {
  const placement = await reserve(id);
  if (!placement.placed) throw new Error(`not placed: ${JSON.stringify(placement)}`);
  return Promise.all(placement.vms.map(async (vm) => (await fetched(fixture, vm, 'vm')).vm));
}

describe('many at once', () => {
  it.each(isFull ? [50, 100] : [50])('%i concurrent reservations never take more than the capacity', async (count) => {
    for (const [id, times] of [
      ['a', 7],
      ['b', 5],
      ['c', 8],
    ] as const)
      await arrive(id, times);
    const tasks: TaskId[] = [];
    for (let i = 0; i < count; i += 1) tasks.push(await accept(fixture, owner));
    const placements = await Promise.all(tasks.map(reserve));
    expect(placements.filter((placement) => placement.placed)).toHaveLength(20);
    await neverExceeded();
    // The oldest tasks are the ones that were placed.
    for (const [i, task] of tasks.entries()) expect((await reserve(task)).placed).toBe(i < 20);
    const first = tasks.slice(0, 20);
    const woken = new Set((await Promise.all(first.map(release))).flat());
    for (const task of tasks.slice(20, 40)) expect(woken).toContain(task);
    await neverExceeded();
    expect((await usage(fixture)).map((host) => host.said[0])).toEqual([7, 5, 8]);
    await Promise.all(tasks.slice(20).map(release));
    await Promise.all(tasks.map(release));
    expect((await usage(fixture)).map((host) => host.said)).toEqual(Array(3).fill([0, 0, 0]));
  });

  it('each has a unique address and MAC, within its owner’s network', async () => {
    await arrive('a', 40);
    const bob = await addOwner(fixture, 'bob');
    const tasks: TaskId[] = [];
    for (let i = 0; i < 40; i += 1) tasks.push(await accept(fixture, i % 2 === 0 ? owner : bob));
    const specs = (await Promise.all(tasks.map(placed))).flat();
    expect(new Set(specs.map((vm) => vm.address)).size).toBe(40);
    expect(new Set(specs.map((vm) => vm.mac)).size).toBe(40);
    const networks = new Map(specs.map((vm) => [vm.owner, vm.network.cidr]));
    expect([...networks.values()].sort()).toEqual(['10.128.0.0/22', '10.128.4.0/22']);
    expect(new Set(specs.map((vm) => vm.network.vni)).size).toBe(2);
    for (const vm of specs) {
      expect(networks.get(vm.owner)).toBe(vm.network.cidr);
      expect(vm.address.startsWith('10.128.')).toBe(true);
      expect([vm.network.gateway, vm.network.cidr.split('/')[0]]).not.toContain(vm.address);
    }
  });
});

it('a process that is stopped during a placement blocks the others for seconds only', async () => {
  await arrive('a', 1);
  const task = await accept(fixture, owner);
  const stopped = new Worker(new URL('./stopped-process.ts', import.meta.url), { workerData: fixture.database.url });
  try {
    await once(stopped, 'message');
    const deadline = Date.now() + 15_000;
    // A transaction that waits for the lock may time out first; it is retried, as by its workflow.
    const attempt = (): Promise<Placement> =>
      reserve(task).catch((error) => {
        if (Date.now() > deadline) throw error;
        return attempt();
      });
    expect(where(await attempt())).toEqual(['a']);
  } finally {
    await stopped.terminate();
  }
});

describe('a placed task', () => {
  it('has VMs that are reserved, with complete specifications', async () => {
    await arrive('a', 1, { images: [image, 'image_unknown'], address: '192.0.2.251' });
    await arrive('b', 1, { address: '192.0.2.252' });
    const task = await accept(fixture, owner, { nodes: 2 });
    const [first, second] = await placed(task);
    expect([first?.host, second?.host]).toEqual(['a', 'b']);
    expect(second).toMatchObject({
      owner,
      name: 'node1',
      generation: 1,
      ...one,
      image: { id: image, name: 'debian-12', cmdline: 'root=/dev/vda', peers: ['192.0.2.251'] },
      network: { cidr: '10.128.0.0/22', gateway: '10.128.0.1', vni: 1 },
      neighbours: [
        { name: 'node0', address: first?.address },
        { name: 'node1', address: second?.address },
      ],
    });
    expect(first?.image.peers).toEqual([]);
    const url = new URL(second?.image.parts.disk.url ?? '');
    expect(url.origin + url.pathname).toBe('http://repository.test:8080/internal/files/file_disk');
    const verify = (nowMs: number) => verifySignedUrl([signingKey], 'GET', url.pathname, signatureOf(url), nowMs);
    expect(verify(fixture.now + 3_599_000)).toBe('valid');
    expect(verify(fixture.now + 3_602_000)).toBe('expired');
    const rows = await fixture.ledger.vm.findMany({ where: { taskId: task } });
    expect(rows.every((row) => row.state === 'reserved' && row.homeId === row.hostId)).toBe(true);
    expect((await fixture.ledger.lease.findFirst())?.startedAt?.getTime()).toBe(fixture.now);
  });

  it('has step arguments for each of its hosts, with URLs that outlast its run', async () => {
    await arrive('a', 2);
    const file = await fixture.ledger.file.create({
      data: { id: 'file_in', ownerId: owner, name: 'words', state: 'ready', sizeBytes: 7n, sha256: hex64 },
    });
    const inputs = [
      { path: 'in/words', file: file.id, mode: '0755' },
      { path: 'in/more', url: 'https://example.test/more', sha256: hex64 },
    ];
    const task = await accept(fixture, owner, {
      nodes: 2,
      inputs,
      outputs: ['out/*'],
      env: { LANG: 'C', BERTH_NODE: 'mine' },
      timeoutS: 5000,
    });
    const [, vm] = await placed(task);
    const args = await fixture.activities.issueTaskStepArgs(task, vm?.id as VmId);
    expect(args.stageOut).toMatchObject({ node: 1, limits: { bytes: 512 * 2 ** 20 } });
    const { stageIn } = await fetched(fixture, vm!, 'stageIn');
    expect(stageIn?.inputs).toMatchObject([
      { path: 'in/words', source: 'repository', sizeBytes: 7, sha256: hex64, mode: '0755' },
      { path: 'in/more', source: 'outside', url: 'https://example.test/more', sizeBytes: null, sha256: hex64, mode: '0644' },
    ]);
    const { run } = await fetched(fixture, vm!, 'run');
    expect(run?.env).toEqual({ LANG: 'C', BERTH_NODE: '1', BERTH_NODES: '2', BERTH_TASK: task });
    const { stageOut } = await fetched(fixture, vm!, 'stageOut');
    expect(stageOut?.patterns).toEqual(['out/*']);
    for (const [method, text, path] of [
      ['PUT', run!.logUrl, `/internal/tasks/${task}/log/1`],
      ['POST', stageOut!.uploadUrl, `/internal/tasks/${task}/outputs/1`],
    ] as const) {
      const url = new URL(text);
      expect(url.pathname).toBe(path);
      const verify = (nowMs: number) => verifySignedUrl([signingKey], method, path, signatureOf(url), nowMs);
      expect(verify(fixture.now + 8_599_000)).toBe('valid');
      expect(verify(fixture.now + 8_602_000)).toBe('expired');
    }
    await fixture.ledger.file.delete({ where: { id: file.id } });
    expect(await failure(fetched(fixture, vm!, 'stageIn'))).toMatchObject({ code: 'input-unavailable' });
  });

  it('takes the overlay of its image into account', async () => {
    await fixture.ledger.image.update({ where: { id: image }, data: { virtualMiB: 1000 } });
    const task = await accept(fixture, owner);
    await fixture.activities.registerHost(hostFacts('a', { vcpus: 4, memoryMiB: 1024, diskMiB: 1511 }));
    expect(await failure(reserve(task))).toMatchObject({ code: 'does-not-fit' });
    await fixture.activities.registerHost(hostFacts('b', { vcpus: 4, memoryMiB: 1024, diskMiB: 1512 }));
    expect(where(await reserve(task))).toEqual(['b']);
  });
});

describe('the queue', () => {
  it('returns how many hosts failed which filter, and how many older tasks wait', async () => {
    await arrive('a', 1);
    await arrive('b', 4);
    await arrive('c', 4);
    await fixture.activities.markHostUnreachable('b' as HostId);
    await fixture.ledger.host.update({ where: { id: 'c' }, data: { schedulable: false } });
    const big = { resources: { ...one, vcpus: 2, memoryMiB: 128 } };
    const tasks = [await accept(fixture, owner, big), await accept(fixture, owner, big)] as const;
    expect(await reserve(tasks[1])).toMatchObject({
      placed: false,
      refusal: { hosts: 3, failed: { vcpus: 1, unknown: 1, unschedulable: 1 } },
      position: 1,
    });
    const row = await fixture.ledger.task.findUniqueOrThrow({ where: { id: tasks[0] } });
    expect(row.refusal).toEqual({ hosts: 3, failed: { vcpus: 1, unknown: 1, unschedulable: 1 } });
  });

  it('bounds how often a large task is overtaken, so that it does not starve', async () => {
    await arrive('a', 4);
    const running = await accept(fixture, owner);
    await placed(running);
    const large = await accept(fixture, owner, { resources: { vcpus: 4, memoryMiB: 1024, diskMiB: 2048 } });
    expect((await reserve(large)).placed).toBe(false);
    const small: TaskId[] = [];
    for (let i = 0; i < 3; i += 1) small.push(await accept(fixture, owner));
    expect((await reserve(small[0] as TaskId)).placed).toBe(true);
    expect((await reserve(small[1] as TaskId)).placed).toBe(true);
    expect(await reserve(small[2] as TaskId)).toMatchObject({
      placed: false,
      refusal: { hosts: 1, failed: { queue: 1 } },
      position: 1,
    });
    expect((await fixture.ledger.task.findUniqueOrThrow({ where: { id: large } })).overtaken).toBe(2);
    for (const id of [running, small[0] as TaskId]) await release(id);
    expect((await reserve(small[2] as TaskId)).placed).toBe(false);
    expect(await release(small[1] as TaskId)).toContain(large);
    expect(where(await reserve(large))).toEqual(['a']);
  });

  it('places all VMs of a gang or none', async () => {
    await arrive('a', 1);
    await arrive('b', 1);
    const single = await accept(fixture, owner);
    await placed(single);
    const gang = await accept(fixture, owner, { nodes: 2 });
    expect(await reserve(gang)).toMatchObject({ placed: false });
    expect((await usage(fixture)).reduce((sum, host) => sum + (host.said[0] ?? 0), 0)).toBe(1);
    await release(single);
    expect(where(await reserve(gang))).toEqual(['a', 'b']);
  });

  it('refuses what the site could never hold, without blocking others', async () => {
    const impossible = await accept(fixture, owner, { resources: { ...one, memoryMiB: 4096 } });
    const ordinary = await accept(fixture, owner);
    expect(await reserve(impossible)).toMatchObject({ placed: false, refusal: { hosts: 0, failed: {} }, position: 0 });
    // Its workflow is notified together with those of the placed tasks.
    expect((await arrive('a', 2)).sort()).toEqual([impossible, ordinary].sort());
    expect(where(await reserve(ordinary))).toEqual(['a']);
    expect(await failure(reserve(impossible))).toMatchObject({ code: 'does-not-fit' });
  });

  it('does not place a task whose cancellation was requested', async () => {
    const task = await accept(fixture, owner);
    await fixture.ledger.task.update({ where: { id: task }, data: { cancelRequestedAt: new Date(fixture.now) } });
    expect(await arrive('a', 2)).toEqual([]);
    expect((await reserve(task)).placed).toBe(false);
  });

  it('does not place a task whose VMs were released before its end is written', async () => {
    const task = await accept(fixture, owner);
    const next = await accept(fixture, owner);
    await release(task);
    expect(await arrive('a', 2)).toEqual([next]);
  });

  it('returns that an owner’s network is full', async () => {
    const narrow = fixture.activitiesWith({ BERTH_GUEST_SUPERNET: '10.200.0.0/22' });
    await arrive('a', 4);
    await narrow.reserveTask(await accept(fixture, owner));
    const other = await accept(fixture, await addOwner(fixture, 'bob'));
    expect(await narrow.reserveTask(other)).toMatchObject({ placed: false, refusal: { failed: { network: 1 } } });
    await fixture.sql(`UPDATE "Network" SET cidr = '10.200.0.0/30'`);
    await fixture.sql(`UPDATE "Vm" SET address = '10.200.0.2' WHERE state = 'reserved'`);
    const full = await accept(fixture, owner);
    expect(await narrow.reserveTask(full)).toMatchObject({ placed: false, refusal: { failed: { address: 1 } } });
    await neverExceeded();
  });

  it('gives an owner whose quota has outgrown its network a larger one when it has no guests, and then more of them', async () => {
    const networkOf = async () =>
      fixture.ledger.network.findFirstOrThrow({ where: { ownerId: owner }, select: { cidr: true, vni: true } });
    await arrive('a', 4);
    const first = await accept(fixture, owner);
    await fixture.activities.reserveTask(first);
    const before = await networkOf();
    await fixture.sql(`UPDATE "Owner" SET "maxVcpus" = 3000`);
    const second = await accept(fixture, owner);
    await fixture.activities.reserveTask(second);
    expect([before.cidr, await networkOf()]).toEqual(['10.128.0.0/22', before]);
    for (const task of [first, second]) await release(task);
    const third = await accept(fixture, owner);
    expect(await fixture.activities.reserveTask(third)).toMatchObject({ placed: true });
    const grown = await networkOf();
    expect([grown.cidr, grown.vni === before.vni]).toEqual(['10.128.16.0/20', false]);
    expect(await fixture.sql(`SELECT address::inet << '10.128.16.0/20' AS within FROM "Vm" WHERE state = 'reserved'`)).toEqual([
      { within: true },
    ]);
  });

  it('notifies of a placement again until the task has begun', async () => {
    const task = await accept(fixture, owner);
    expect(await arrive('a', 4)).toEqual([task]);
    // The process that had to notify it died, so the next pass does.
    expect(await fixture.activities.releaseVms([])).toEqual([task]);
    await fixture.activities.advanceTask(task, 'stagingIn', []);
    expect(await fixture.activities.releaseVms([])).toEqual([]);
  });
});

describe('accepting', () => {
  it('refuses unknown images and files by name', async () => {
    await fixture.activities.registerHost(hostFacts('a', roomy));
    expect(await failure(accept(fixture, owner, { image: 'none' }))).toMatchObject({
      code: 'image-unknown',
      fields: [{ pointer: '/image' }],
    });
    const inputs = [{ path: 'a', file: 'file_none' }];
    expect(await failure(accept(fixture, owner, { inputs }))).toMatchObject({
      code: 'file-unknown',
      fields: [{ pointer: '/inputs/0/file' }],
    });
    const other = await addOwner(fixture, 'bob');
    const data = { id: 'file_bob', ownerId: other, name: 'f', state: 'ready' as const, sizeBytes: 1n, sha256: hex64 };
    await fixture.ledger.file.create({ data });
    const foreign = [{ path: 'a', file: 'file_bob' }];
    expect(await failure(accept(fixture, owner, { inputs: foreign }))).toMatchObject({ code: 'file-unknown' });
    const digest = [{ path: 'a', file: 'file_bob', sha256: 'cd'.repeat(32) }];
    expect(await failure(accept(fixture, other, { inputs: digest }))).toMatchObject({ code: 'digest-mismatch' });
    expect(await failure(accept(fixture, owner, { nodes: 9 }))).toMatchObject({ code: 'does-not-fit' });
    for (const table of ['Task', 'Vm', 'Lease', 'Event']) expect(await fixture.sql(`SELECT 1 FROM "${table}"`)).toEqual([]);
  });

  it('takes the newest image, the owner’s own before the site’s, and never another’s', async () => {
    const bob = await addOwner(fixture, 'bob');
    const newer = await addImage(fixture);
    const own = await addImage(fixture);
    await fixture.ledger.image.update({ where: { id: own }, data: { ownerId: bob, createdAt: new Date(0) } });
    const imageOf = async (id: TaskId) => (await fixture.ledger.vm.findFirst({ where: { taskId: id } }))?.imageId;
    expect(await imageOf(await accept(fixture, owner))).toBe(newer);
    expect(await imageOf(await accept(fixture, bob))).toBe(own);
  });

  it('writes the task, its lease, its VMs and its event in one', async () => {
    const task = await accept(fixture, owner, { name: 'encode', nodes: 2 });
    const event = await fixture.ledger.event.findFirstOrThrow();
    expect(event).toMatchObject({
      id: `${task}/berth.task.accepted`,
      type: 'berth.task.accepted',
      subject: task,
      ownerId: owner,
    });
    expect(event.data).toMatchObject({ task, name: 'encode', owner, image: 'debian-12', nodes: 2, resources: one });
    const vms = await fixture.ledger.vm.findMany({ where: { taskId: task }, orderBy: { node: 'asc' } });
    expect(vms.map((vm) => [vm.name, vm.state, vm.node, vm.generation])).toEqual([
      ['node0', 'pending', 0, 0],
      ['node1', 'pending', 1, 0],
    ]);
    expect(await fixture.activities.loadTask(task)).toMatchObject({
      id: task,
      owner,
      state: 'queued',
      vmIds: vms.map((vm) => vm.id),
      cancelRequested: false,
    });
  });
});
