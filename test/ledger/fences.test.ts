import { beforeEach, describe, expect, it } from 'vitest';
import { changeTaskForceEnded, changeVmForceEnded } from '../../ledger/levers/force-end.ts';
import { readAddresses } from '../../ledger/placement/owner-networks.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { accept, addImage, addOwner, empty, hostFacts, roomy, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
const order = () => ({ by: owner, reason: null, nowMs: fixture.now });
const inventory = { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] };

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  for (const id of ['a', 'b']) await fixture.activities.registerHost(hostFacts(id, roomy));
});

/** A task's VM that runs on one host with its disks on the other, as after a migration. */
async function awayFromHome(): Promise<{ vm: VmId; host: HostId; home: HostId }> {
  const id = await accept(fixture, owner);
  await fixture.activities.reserveTask(id);
  await fixture.activities.advanceTask(id, 'stagingIn', []);
  await fixture.activities.advanceTask(id, 'starting', [], 'creating');
  await fixture.activities.advanceTask(id, 'running', [], 'running');
  const { id: vm, homeId } = await fixture.ledger.vm.findFirstOrThrow({ where: { taskId: id } });
  const host = homeId === 'a' ? 'b' : 'a';
  await fixture.ledger.vm.update({ where: { id: vm }, data: { hostId: host, generation: { increment: 1 } } });
  await changeTaskForceEnded(fixture.ledger, id, order());
  return { vm: vm as VmId, host: host as HostId, home: homeId as HostId };
}

describe('a fenced VM', () => {
  it('has its disks removed only after the host of its domain has confirmed', async () => {
    const { vm, host, home } = await awayFromHome();
    const fencedAt = async (id: HostId) => (await fixture.activities.compareHost(id, inventory)).fenced;
    const { generation } = await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
    expect(await fencedAt(home)).toEqual([]);
    expect(await fencedAt(host)).toEqual([{ vmId: vm, generation, keepsDisks: false }]);
    // Nor are they a leftover of a removed VM meanwhile.
    const found = { ...inventory, disks: [{ vmId: vm, generation: 1, bytes: 1 }] };
    expect((await fixture.activities.compareHost(home, found)).leftovers).toEqual([]);
    await fixture.activities.liftFence(host, vm);
    expect(await fencedAt(home)).toEqual([{ vmId: vm, generation, keepsDisks: false }]);
    await fixture.activities.liftFence(home, vm);
    for (const { said } of await usage(fixture)) expect(said).toEqual([0, 0, 0]);
  });

  it('keeps its address from others until it is confirmed', async () => {
    const placed = async () => {
      const task = await accept(fixture, owner);
      await fixture.activities.reserveTask(task);
      const { id, address, state } = await fixture.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
      return { task, vm: id as VmId, address: state === 'reserved' ? address : null };
    };
    await fixture.activities.releaseVms([(await placed()).vm]);
    // A network with one address for guests.
    await fixture.sql(`UPDATE "Network" SET cidr = regexp_replace(cidr, '/.*', '/30')`);
    const first = await placed();
    expect(first.address).not.toBeNull();
    await changeTaskForceEnded(fixture.ledger, first.task, order());
    const next = await placed();
    expect(next.address).toBeNull();
    expect(await readAddresses(fixture.ledger, owner)).toEqual(new Set([first.address]));
    const { hostId } = await fixture.ledger.fence.findFirstOrThrow();
    await fixture.activities.liftFence(hostId as HostId, first.vm);
    const { address, state } = await fixture.ledger.vm.findUniqueOrThrow({ where: { id: next.vm } });
    expect([address, state]).toEqual([first.address, 'reserved']);
  });

  it('holds the image that its disk is on', async () => {
    const task = await accept(fixture, owner);
    await fixture.activities.reserveTask(task);
    const { imageId } = await fixture.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
    await changeTaskForceEnded(fixture.ledger, task, order());
    const retire = () => fixture.ledger.image.update({ where: { id: imageId! }, data: { state: 'retired' } });
    await expect(retire()).rejects.toThrow(/in use/);
    await fixture.sql('DELETE FROM "Fence"');
    expect((await retire()).state).toBe('retired');
  });

  it('is ended once, however many ask at the same time', async () => {
    const task = await accept(fixture, owner);
    await fixture.activities.reserveTask(task);
    const { id } = await fixture.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
    await Promise.all(Array.from({ length: 8 }, () => changeTaskForceEnded(fixture.ledger, task, order())));
    await changeVmForceEnded(fixture.ledger, id, order());
    expect(await fixture.ledger.event.count({ where: { subject: task, type: 'berth.task.failed' } })).toBe(1);
    expect(await fixture.ledger.fence.count()).toBe(1);
  });
});
