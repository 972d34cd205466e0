import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { ConsolePage, ConsoleRange } from '../../model/console.ts';
import { newId, type VmId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyFault } from './faults.ts';
import { acceptTalkingVm, resultOrCancelled, resultOrCode, rowOf, runTalkingVm } from './talking-vm.ts';

vi.setConfig({ maxConcurrency: 16, testTimeout: 120_000 });

let site: FakeSite;
let vm: VmId;
beforeAll(async () => {
  site = await openFakeSite();
  vm = await acceptTalkingVm(site);
});
afterAll(() => site.stop());

/** The bytes of the console, or the code of the error. */
async function read(reading: string, range: ConsoleRange = { last: 1000 }): Promise<string> {
  const page = site.client.workflow.execute<(...args: [VmId, ConsoleRange, number]) => Promise<ConsolePage>>(
    workflowType.console,
    { taskQueue: controlQueue, workflowId: workflowId.console(vm, reading), args: [vm, range, site.pace] },
  );
  return resultOrCode(page.then(({ base64 }) => Buffer.from(base64, 'base64').toString()));
}

test('a VM that was not placed yet has no console', async () => {
  expect(await read('early')).toBe('conflict');
});

test('the output of a guest is read on the host where it runs, and the read does not wait for a silent host', async () => {
  await runTalkingVm(site, vm);
  expect(await read('whole')).toBe(`Linux boots ${vm}\n`);
  expect(await read('part', { from: 6, bytes: 5 })).toBe('boots');
  const host = site.hosts.find((one) => one.domains.has(vm))!;
  await site.stopWorker(host.id);
  expect(await read('silent')).toBe('host-unavailable');
  await site.startHost(host);
});

const calls: Call[] = ['loadVmLocation', 'readConsole'].map((name) => ({ name, nth: 1 }));
test.concurrent.each(everyFault(calls))(
  '$name: $fault ends with the bytes or the reason of the failure, and changes nothing',
  async ({ fault, ...call }) => {
    const reading = newId('vm');
    const workflow = workflowId.console(vm, reading);
    const before = await rowOf(site, vm);
    site.faults.plan(workflow, call, fault);
    const said = await resultOrCancelled(read(reading));
    expect(site.faults.fired(workflow)).toBe(true);
    expect([`Linux boots ${vm}\n`, 'disk-full', 'internal', 'host-unavailable', 'cancelled']).toContain(said);
    expect(await rowOf(site, vm)).toEqual(before);
  },
);
