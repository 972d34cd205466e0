import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { StreamOrder } from '../../contracts/stream.ts';
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

/** `opened`, or the code of the error. */
async function open(id: string): Promise<string> {
  const order: StreamOrder = { id, url: null, token: 'once', owner: site.owner, needsProgram: true };
  const workflow = site.client.workflow.execute<(...args: [VmId, StreamOrder, number]) => Promise<void>>(workflowType.stream, {
    taskQueue: controlQueue,
    workflowId: workflowId.stream(vm, id),
    args: [vm, order, site.pace],
  });
  return resultOrCode(workflow.then(() => 'opened'));
}

const opened = (id: string) => site.hosts.flatMap(({ streams }) => streams).filter(({ order }) => order.id === id);

test('a VM that was not placed yet has no sessions', async () => {
  expect(await open('early')).toBe('conflict');
});

test('the host where the VM runs connects, and a silent one is not waited for', async () => {
  await runTalkingVm(site, vm);
  expect(await open('first')).toBe('opened');
  expect(opened('first')).toMatchObject([{ domain: vm, order: { token: 'once', needsProgram: true } }]);
  const host = site.hosts.find((one) => one.domains.has(vm))!;
  await site.stopWorker(host.id);
  expect(await open('silent')).toBe('host-unavailable');
  await site.startHost(host);
});

test('a VM with devices of an earlier version has no port for it', async () => {
  const host = site.hosts.find((one) => one.domains.has(vm))!;
  const { config } = host.domains.get(vm)!;
  const socket = config.streamSocket;
  config.streamSocket = null;
  expect(await open('portless')).toBe('guest-program-missing');
  config.streamSocket = socket;
});

const calls: Call[] = ['loadVmLocation', 'openStream'].map((name) => ({ name, nth: 1 }));
test.concurrent.each(everyFault(calls))(
  '$name: $fault ends with one connection at the most, or its reason, and changes nothing',
  async ({ fault, ...call }) => {
    const id = newId('vm');
    const workflow = workflowId.stream(vm, id);
    const before = await rowOf(site, vm);
    site.faults.plan(workflow, call, fault);
    const result = await resultOrCancelled(open(id));
    expect(site.faults.fired(workflow)).toBe(true);
    expect(['opened', 'disk-full', 'internal', 'host-unavailable', 'unavailable', 'cancelled']).toContain(result);
    expect(opened(id).length).toBeLessThanOrEqual(1);
    if (result === 'opened') expect(opened(id)).toHaveLength(1);
    expect(await rowOf(site, vm)).toEqual(before);
  },
);
