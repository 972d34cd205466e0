import { beforeEach, describe, expect, it } from 'vitest';
import type { HostInventory } from '../../model/host.ts';
import type { HostId, ImageId, TaskId, VmId } from '../../model/ids.ts';
import { newId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import {
  accept,
  addImage,
  addOwner,
  empty,
  failure,
  hex64,
  hostFacts,
  outcomeOf,
  roomy,
  usage,
  useLedger,
} from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
let image: ImageId;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  image = await addImage(fixture);
});

async function placed(spec: Record<string, unknown> = {}): Promise<{ task: TaskId; vm: VmSpec }> {
  const task = await accept(fixture, owner, spec);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error(`not placed: ${JSON.stringify(placement)}`);
  return { task, vm: placement.vms[0] as VmSpec };
}

const host = (id: string) => fixture.ledger.host.findUniqueOrThrow({ where: { id }, include: { images: true } });

describe('a host', () => {
  it('registers the capacity that it measured, less its reserve', async () => {
    const reserve = { vcpus: 1, memoryMiB: 512, diskMiB: 200_000 };
    await fixture.activities.registerHost(hostFacts('a', roomy, { reserve, images: [image, 'image_unknown'] }));
    expect(await host('a')).toMatchObject({
      state: 'up',
      schedulable: true,
      vcpus: 7,
      memoryMiB: 7680,
      diskMiB: 0,
      images: [{ imageId: image }],
    });
  });

  it('registers again with its new capacity, and the settings of its operator', async () => {
    await fixture.activities.registerHost(hostFacts('a', roomy, { images: [image] }));
    await fixture.ledger.host.update({ where: { id: 'a' }, data: { schedulable: false, acceptsMigrations: false } });
    await fixture.activities.markHostUnreachable('a' as HostId);
    expect((await host('a')).state).toBe('unknown');
    await fixture.activities.registerHost(hostFacts('a', { ...roomy, vcpus: 2 }, { bootId: 'boot-2' }));
    expect(await host('a')).toMatchObject({
      state: 'up',
      schedulable: false,
      acceptsMigrations: false,
      vcpus: 2,
      bootId: 'boot-2',
      images: [],
    });
  });

  it('that shrank keeps its VMs and gets no more until they fit', async () => {
    const facts = hostFacts('a', roomy);
    await fixture.activities.registerHost(facts);
    const tasks = [await placed({ resources: { vcpus: 4, memoryMiB: 4096, diskMiB: 100 } }), await placed()] as const;
    await fixture.activities.registerHost({ ...facts, capacity: { vcpus: 2, memoryMiB: 1024, diskMiB: 1100 } });
    expect(await host('a')).toMatchObject({ vcpus: 2, usedVcpus: 5, memoryMiB: 1024, usedMemoryMiB: 4352 });
    const next = await accept(fixture, owner);
    expect(await fixture.activities.reserveTask(next)).toMatchObject({ placed: false, refusal: { failed: { vcpus: 1 } } });
    expect(await fixture.activities.releaseVms([tasks[0].vm.id])).toContain(next);
    expect((await usage(fixture))[0]?.said).toEqual([2, 512, 1024]);
  });

  it('may register, become unreachable and report an image repeatedly', async () => {
    const facts = hostFacts('a', roomy, { images: [image] });
    const rows = async () => [await host('a'), await fixture.ledger.event.count()];
    for (const step of [
      () => fixture.activities.registerHost(facts),
      () => fixture.activities.recordImageCached('a' as HostId, image),
      () => fixture.activities.markHostUnreachable('a' as HostId),
      () => fixture.activities.registerHost(facts),
    ]) {
      await step();
      const before = await rows();
      await step();
      expect(await rows()).toEqual(before);
    }
    await Promise.all(Array.from({ length: 10 }, () => fixture.activities.registerHost(facts)));
  });

  it('cannot register with the address of another', async () => {
    const facts = hostFacts('a', roomy);
    await fixture.activities.registerHost(facts);
    const error = await failure(fixture.activities.registerHost({ ...hostFacts('b', roomy), address: facts.address }));
    expect(error).toMatchObject({ code: 'conflict' });
    expect(error.message).toContain("is host a's");
  });

  it('gets no work while it is unreachable, and its VMs are not placed elsewhere', async () => {
    await fixture.activities.registerHost(hostFacts('a', roomy));
    const { vm } = await placed();
    await fixture.activities.markHostUnreachable('a' as HostId);
    await fixture.activities.registerHost(hostFacts('b', roomy));
    expect((await placed()).vm.host).toBe('b');
    expect(await fixture.ledger.vm.findUnique({ where: { id: vm.id } })).toMatchObject({
      hostId: 'a',
      state: 'reserved',
      generation: 1,
    });
  });

  it('is preferred where it has the image', async () => {
    for (const id of ['a', 'b', 'c']) await fixture.activities.registerHost(hostFacts(id, roomy));
    await fixture.activities.recordImageCached('b' as HostId, image);
    expect((await placed()).vm.host).toBe('b');
  });
});

describe('an image in the cache of a host', () => {
  const nothing: HostInventory = { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] };
  const compare = (images: string[]) => fixture.activities.compareHost('a' as HostId, { ...nothing, images });
  const known = async () => (await host('a')).images.map(({ imageId }) => imageId);

  it('is deleted when it was evicted, and not because of an older inventory', async () => {
    const other = await addImage(fixture);
    await fixture.activities.registerHost(hostFacts('a', roomy, { images: [image, other] }));
    fixture.now += 4 * 60_000;
    await compare([]);
    expect((await known()).toSorted()).toEqual([image, other].toSorted());
    fixture.now += 2 * 60_000;
    await compare([other]);
    expect(await known()).toEqual([other]);
  });

  it('that was fetched again after the inventory was taken remains known', async () => {
    await fixture.activities.registerHost(hostFacts('a', roomy, { images: [image] }));
    fixture.now += 3600_000;
    await fixture.activities.recordImageCached('a' as HostId, image);
    await compare([]);
    expect(await known()).toEqual([image]);
  });
});

describe('two machines with one id', () => {
  const register = (machine: string | undefined) =>
    fixture.activities.registerHost(hostFacts('twice', roomy, machine === undefined ? {} : { machine }));

  it('refuses the second as long as the first is up, and takes it when that is silent', async () => {
    await register('first');
    await register('first');
    expect((await failure(register('second'))).code).toBe('conflict');
    expect((await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'twice' } })).machine).toBe('first');
    await fixture.activities.markHostUnreachable('twice' as HostId);
    await register('second');
    expect((await failure(register('first'))).code).toBe('conflict');
  });

  it('takes a machine whose older worker did not say which it is', async () => {
    await register(undefined);
    await register('first');
    await register('first');
  });
});

describe('compareHost', () => {
  const nothing: HostInventory = { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] };
  const domain = (vmId: string | null, name = vmId ?? 'other') => ({ name, vmId: vmId as VmId | null, state: 'running' });
  const disk = (vmId: string, generation: number | null) => ({ vmId, generation, bytes: 1 });
  const compare = (found: Partial<HostInventory>, id = 'a') =>
    fixture.activities.compareHost(id as HostId, { ...nothing, ...found });
  const agreed = { foreignDomains: [], foreignDisks: [], missing: [], leftovers: [], departed: [], fenced: [] };

  beforeEach(async () => {
    await fixture.activities.registerHost(hostFacts('a', roomy));
  });

  async function running(): Promise<VmSpec> {
    const { task, vm } = await placed();
    await fixture.activities.advanceTask(task, 'stagingIn', []);
    await fixture.activities.advanceTask(task, 'starting', [], 'creating');
    await fixture.activities.advanceTask(task, 'running', [], 'running');
    return vm;
  }

  it('finds no difference where the host has what the ledger says', async () => {
    const vm = await running();
    expect(await compare({ domains: [domain(vm.id)], disks: [disk(vm.id, 1)] })).toEqual(agreed);
    expect(await compare({ disks: [disk((await placed()).vm.id, null)], domains: [domain(vm.id)] })).toEqual(agreed);
  });

  it('finds foreign domains and disks', async () => {
    const stranger = newId('vm');
    const found = {
      domains: [domain(null, 'desktop'), domain(stranger, 'berth-x')],
      disks: [disk(stranger, 1), disk('rubbish', null)],
    };
    expect(await compare(found)).toEqual({
      ...agreed,
      foreignDomains: ['desktop', 'berth-x'],
      foreignDisks: [stranger, 'rubbish'],
    });
  });

  it('finds missing domains, only where the host must have one', async () => {
    const vm = await running();
    await placed();
    expect(await compare({ disks: [disk(vm.id, 1)] })).toEqual({ ...agreed, missing: [vm.id] });
    await fixture.activities.setVmState(vm.id, 'removing');
    expect(await compare({})).toEqual(agreed);
  });

  it('finds leftovers of VMs that were removed, queued again, or placed elsewhere since', async () => {
    const removed = await running();
    await fixture.activities.releaseVms([removed.id]);
    const { task, vm: requeued } = await placed();
    await fixture.activities.advanceTask(task, 'stagingIn', []);
    await fixture.activities.markHostUnreachable('a' as HostId);
    await fixture.activities.requeueTask(task);
    const found = { domains: [domain(removed.id)], disks: [disk(removed.id, 1), disk(requeued.id, 1)] };
    const both = [
      { vmId: removed.id, generation: 1 },
      { vmId: requeued.id, generation: 1 },
    ];
    expect(await compare(found)).toEqual({ ...agreed, leftovers: both });
    await fixture.activities.registerHost(hostFacts('b', roomy));
    expect(await fixture.activities.reserveTask(task)).toMatchObject({ vms: [{ host: 'b', generation: 2 }] });
    expect(await compare(found)).toEqual({ ...agreed, leftovers: both });
    expect(await compare({ disks: [disk(requeued.id, 2)] }, 'b')).toEqual(agreed);
  });

  it('finds at its home a VM that runs elsewhere, and that was not cleaned up after its departure', async () => {
    const vm = await running();
    await fixture.activities.registerHost(hostFacts('b', roomy));
    const at = (departure: number) => ({ disks: [{ ...disk(vm.id, 1), departure }] });
    expect(await compare({ domains: [domain(vm.id)], ...at(2) })).toEqual(agreed);
    await fixture.ledger.vm.update({ where: { id: vm.id }, data: { hostId: 'b', homeId: 'a', generation: 2 } });
    expect(await compare(at(2))).toEqual({ ...agreed, departed: [{ vmId: vm.id, generation: 1 }] });
    expect(await compare({ domains: [domain(vm.id)], ...at(2) })).toEqual(agreed);
    expect(await compare(at(3))).toEqual(agreed);
    expect(await compare({ disks: [disk(vm.id, 1)] })).toEqual(agreed);
  });

  it('reports no leftover of a VM that migrates, is stuck, or whose record is newer than the ledger', async () => {
    const moving = await running();
    await fixture.activities.setVmState(moving.id, 'migrating');
    const stuck = await running();
    await fixture.activities.setVmState(stuck.id, 'stuck', { code: 'ambiguous', message: 'why' });
    await fixture.activities.registerHost(hostFacts('b', roomy));
    expect(await compare({ domains: [domain(moving.id)], disks: [disk(moving.id, 1)] }, 'b')).toEqual(agreed);
    expect(await compare({ domains: [domain(stuck.id)] })).toEqual(agreed);
    // On another host, and not of an older generation: this is reported for an operator, and never removed.
    expect(await compare({ disks: [disk(stuck.id, 5)] }, 'b')).toEqual({ ...agreed, foreignDisks: [stuck.id] });
  });
});

describe('housekeeping', () => {
  it('finds the tasks whose workflow was never started', async () => {
    const lost = await accept(fixture, owner);
    const known = await accept(fixture, owner);
    await fixture.activities.loadTask(known);
    expect(await fixture.activities.listTasksWithoutWorkflow(30)).toEqual([]);
    fixture.now += 60_000;
    const fresh = await accept(fixture, owner);
    expect(await fixture.activities.listTasksWithoutWorkflow(30)).toEqual([lost]);
    fixture.now += 60_000;
    expect(await fixture.activities.listTasksWithoutWorkflow(30)).toEqual([lost, fresh]);
  });

  it('finds the tasks whose cancellation was requested and lost', async () => {
    const [one, two] = [await accept(fixture, owner), await accept(fixture, owner)];
    await fixture.activities.loadTask(one);
    await fixture.ledger.task.updateMany({ data: { cancelRequestedAt: new Date(fixture.now) } });
    expect((await fixture.activities.loadTask(one)).cancelRequested).toBe(true);
    expect(await fixture.activities.listTasksToCancel(30)).toEqual([]);
    fixture.now += 60_000;
    expect(await fixture.activities.listTasksToCancel(30)).toEqual([one]);
    await fixture.activities.loadTask(two);
    expect(await fixture.activities.listTasksToCancel(30)).toEqual([one, two]);
    await fixture.activities.finishTask(one, outcomeOf({ state: 'cancelled', exitCode: null }), []);
    expect(await fixture.activities.listTasksToCancel(30)).toEqual([two]);
  });

  it('sweeps what has expired and nothing else', async () => {
    const hour = 3600 * 1000;
    const key = (name: string, hours: number) =>
      fixture.ledger.idempotency.create({
        data: {
          ownerId: owner,
          key: name,
          method: 'POST',
          path: '/',
          fingerprint: '',
          status: 202,
          createdAt: new Date(fixture.now - hours * hour),
        },
      });
    const file = (id: string, state: 'uploading' | 'ready', hours: number) =>
      fixture.ledger.file.create({
        data: {
          id,
          ownerId: owner,
          name: 'f',
          state,
          sizeBytes: 1n,
          sha256: hex64,
          createdAt: new Date(fixture.now - hours * hour),
        },
      });
    await Promise.all([
      key('old', 25),
      key('young', 23),
      file('f1', 'uploading', 49),
      file('f2', 'uploading', 47),
      file('f3', 'ready', 1000),
    ]);
    expect(await fixture.activities.sweepExpiredRows()).toBe(2);
    expect((await fixture.ledger.idempotency.findMany()).map((row) => row.key)).toEqual(['young']);
    expect((await fixture.ledger.file.findMany({ orderBy: { id: 'asc' } })).map((row) => row.id)).toEqual(['f2', 'f3']);
    expect((await fixture.ledger.owner.findUniqueOrThrow({ where: { id: owner } })).usedBytes).toBe(2n);
  });
});
