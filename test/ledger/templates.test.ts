import { beforeEach, describe, expect, it } from 'vitest';
import type { VmRef } from '../../contracts/host-calls.ts';
import type { HostId, TaskId } from '../../model/ids.ts';
import { accept, addImage, addOwner, empty, hostFacts, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
let like: VmRef;

const one = { vcpus: 1, memoryMiB: 256, diskMiB: 512 };
const arrive = (id: string, vcpus: number) =>
  fixture.activities.registerHost(hostFacts(id, { vcpus, memoryMiB: 4096, diskMiB: 65_536 }));

async function place(): Promise<{ id: TaskId; vm: VmRef }> {
  const id = await accept(fixture, owner, { resources: one });
  const placement = await fixture.activities.reserveTask(id);
  if (!placement.placed) throw new Error('it was not placed');
  return { id, vm: placement.vms[0]! };
}

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  await arrive('h1', 2);
  const { vm } = await place();
  like = vm;
});

describe('the capacity of a template', () => {
  it("counts on its host like a VM's, for the site's own owner, until it is released", async () => {
    const [before] = await usage(fixture);
    const place = await fixture.activities.reserveTemplate(like);
    expect(place).toMatchObject({ kind: 'reserved', vm: { host: like.host, image: { id: like.image.id }, memoryMiB: 256 } });
    const [during] = await usage(fixture);
    expect(during!.said.slice(0, 2)).toEqual([before!.said[0]! + 1, before!.said[1]! + 256]);
    expect(during!.said).toEqual(during!.summed);
    if (place.kind !== 'reserved') return;
    expect(place.vm.owner).not.toBe(owner);
    await fixture.activities.releaseVms([place.vm.id]);
    expect((await usage(fixture))[0]).toEqual(before);
  });

  it('is reserved once on a host, and returned to a repeated request', async () => {
    const first = await fixture.activities.reserveTemplate(like);
    expect(await fixture.activities.reserveTemplate(like)).toEqual(first);
    if (first.kind !== 'reserved') throw new Error('it was not reserved');
    const other = { ...like, memoryMiB: 512 };
    expect(await fixture.activities.reserveTemplate(other)).toEqual({ kind: 'left', vm: first.vm.id, generation: 1 });
    await expect(
      fixture.sql(`UPDATE "Vm" SET template = true, address = NULL, mac = NULL, "taskId" = NULL, "leaseId" = NULL
                   WHERE id = '${like.id}'`),
    ).rejects.toThrow('Vm_template_live');
  });

  it('is refused on a full host, while a task waits, and where nothing is placed', async () => {
    const second = await place();
    expect(await fixture.activities.reserveTemplate(like)).toMatchObject({ kind: 'waits' });
    await accept(fixture, owner, { resources: one });
    await fixture.activities.releaseVms([second.vm.id]);
    const third = await accept(fixture, owner, { resources: { ...one, vcpus: 2 } });
    expect((await fixture.activities.reserveTask(third)).placed).toBe(false);
    expect(await fixture.activities.reserveTemplate(like)).toEqual({ kind: 'waits', reason: 'tasks wait for capacity' });
    await fixture.activities.markHostUnreachable('h1' as HostId);
    expect(await fixture.activities.reserveTemplate(like)).toEqual({ kind: 'waits', reason: 'h1 takes no VMs' });
  });
});

it('records warm and cold boots, with the reason of the cold ones', async () => {
  const { id, vm } = await place();
  await fixture.activities.advanceTask(id, 'stagingIn', []);
  await fixture.activities.advanceTask(id, 'starting', [], 'creating');
  const noted = async () => fixture.sql('SELECT boot, "bootWhy" FROM "Vm" WHERE id = $1', [vm.id]);
  expect(await noted()).toEqual([{ boot: null, bootWhy: null }]);
  await fixture.activities.advanceTask(id, 'running', [], 'running', [{ vm: vm.id, boot: { kind: 'cold', why: 'no-template' } }]);
  expect(await noted()).toEqual([{ boot: 'cold', bootWhy: 'no-template' }]);
  await fixture.activities.advanceTask(id, 'running', [], 'running', [{ vm: vm.id, boot: { kind: 'warm' } }]);
  expect(await noted()).toEqual([{ boot: 'warm', bootWhy: null }]);
  await expect(fixture.sql(`UPDATE "Vm" SET boot = 'cold' WHERE id = '${vm.id}'`)).rejects.toThrow('Vm_bootWhy');
  await expect(fixture.sql(`UPDATE "Vm" SET boot = 'hot' WHERE id = '${vm.id}'`)).rejects.toThrow('Vm_boot');
});
