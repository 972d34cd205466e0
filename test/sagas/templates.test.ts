import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { VmRef } from '../../contracts/host-calls.ts';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { everyFault } from './faults.ts';

const week = 7 * 24 * 3600;
let site: FakeSite;
let host: FakeHost;
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 1,
    templates: true,
    capacity: { vcpus: 2, memoryMiB: 65_536, diskMiB: 262_144 },
    run: (_, [program]) => ({
      exitCode: 0,
      durationMs: program === 'long' ? endless : 50,
      log: '',
      files: { 'out/result': 'done\n' },
    }),
  });
  host = site.hosts[0]!;
});
afterAll(() => site.stop());

const nothingIsLeft = () =>
  site.until('nothing of it is left', async () => {
    const [row] = await site.ledger.host.findMany();
    return host.leftovers().length === 0 && row!.usedVcpus + row!.usedMemoryMiB + row!.usedDiskMiB === 0;
  });
afterEach(async () => {
  await nothingIsLeft();
  await expectEmptySite(site);
});

/** Another task with the image of an earlier one. */
async function submitLike(id: Awaited<ReturnType<FakeSite['accept']>>, order = {}) {
  const [vm] = (await rowsOf(site, id)).vms;
  return site.submit({ image: vm!.imageId, ...order });
}
const bootOf = async (id: Awaited<ReturnType<FakeSite['accept']>>) => {
  const [vm] = (await rowsOf(site, id)).vms;
  return [vm!.boot, vm!.bootWhy];
};

describe('a template', () => {
  test('is made in the background after the first boot of a VM, and the next VMs start from it', async () => {
    const first = await site.submit();
    expect(await site.ended(first)).toBe('succeeded');
    expect(await bootOf(first)).toEqual(['cold', 'no-template']);
    await site.until('there is a template', async () => host.templates.size === 1);
    const second = await submitLike(first);
    expect(await site.ended(second)).toBe('succeeded');
    expect(await bootOf(second)).toEqual(['warm', null]);
    for (const id of [first, second]) await expectEverythingOrNothing(site, id);
  });

  test('takes no capacity that a task waits for', async () => {
    const first = await site.submit({ command: ['long'], timeoutS: week, resources: { vcpus: 2 } });
    await site.until('it runs', async () => (await rowsOf(site, first)).task.state === 'running');
    const details = () => site.detailsOf(workflowId.templates(host.id));
    // The host is full, and then a task waits as well.
    await site.until('it waits', async () => (await details()).includes('waits since'));
    const second = await submitLike(first, { command: ['long'], timeoutS: week, resources: { vcpus: 2 } });
    await site.cancel(first);
    await site.ended(first);
    await site.until('the second runs', async () => (await rowsOf(site, second)).task.state === 'running');
    expect(await bootOf(second)).toEqual(['cold', 'no-template']);
    await site.cancel(second);
    await site.ended(second);
    await site.until('then it is made', async () => (await details()).includes('made at '));
  });
});

const calls = ['reserveTemplate', 'buildTemplate', 'removeVm', 'releaseVms'].map((name) => ({ name, nth: 1 }));
/** A workflow of its own for one template, on a host that makes no other. */
test.each(everyFault(calls))('$name: $what', async ({ name, fault }) => {
  const like = await newKind();
  const id = `templates-of-${like.image.id}`;
  site.faults.plan(id, { name, nth: 1 }, fault);
  await make(id, like).catch((error: unknown) => {
    // It has removed what it made before it ends.
    if (!fault.startsWith('cancelled')) throw error;
  });
  expect(site.faults.fired(id)).toBe(true);
  await nothingIsLeft();
  if (fault === 'late') await site.faults.runLate(id);
  // The next template that this host needs replaces one that came too late.
  if (fault === 'late' && name === 'reserveTemplate') await make(`${id}-next`, await newKind());
  await nothingIsLeft();
  expect([...host.templates.values()].every(({ ready }) => ready)).toBe(true);
});

const make = (id: string, like: VmRef) =>
  site.client.workflow.execute(workflowType.templates, {
    taskQueue: controlQueue,
    workflowId: id,
    args: [like.host, site.pace, [like]],
  });

async function newKind(): Promise<VmRef> {
  const id = await site.accept();
  const placement = await site.ledgerSteps().reserveTask(id);
  if (!placement.placed) throw new Error('there is no room for a VM');
  await site.ledgerSteps().releaseVms([placement.vms[0]!.id]);
  await site.ledger.task.update({ where: { id }, data: { state: 'cancelled' } });
  return placement.vms[0]!;
}
