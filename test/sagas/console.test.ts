import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { ConsolePage, ConsoleRange } from '../../model/console.ts';
import { isErrorCode } from '../../model/errors.ts';
import { newId, type VmId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyFault } from './faults.ts';

vi.setConfig({ maxConcurrency: 16, testTimeout: 120_000 });

let site: FakeSite;
let vm: VmId;
beforeAll(async () => {
  site = await openFakeSite();
  const order = VmRequest.parse({ name: 'talks', image: await site.publishImage() });
  vm = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
});
afterAll(() => site.stop());

/** The bytes of the console, or the code of the error. */
async function read(reading: string, range: ConsoleRange = { last: 1000 }): Promise<string> {
  try {
    const page = await site.client.workflow.execute<(...args: [VmId, ConsoleRange, number]) => Promise<ConsolePage>>(
      workflowType.console,
      { taskQueue: controlQueue, workflowId: workflowId.console(vm, reading), args: [vm, range, site.pace] },
    );
    return Buffer.from(page.base64, 'base64').toString();
  } catch (error) {
    const met = error instanceof WorkflowFailedError ? error.cause : undefined;
    if (met instanceof ApplicationFailure && isErrorCode(met.type ?? '')) return met.type!;
    throw error;
  }
}

const rowOf = () => site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });

test('a VM that was not placed yet has no console', async () => {
  expect(await read('early')).toBe('conflict');
});

test('the output of a guest is read on the host where it runs, and the read does not wait for a silent host', async () => {
  await site.client.workflow.start(workflowType.vm, {
    taskQueue: controlQueue,
    workflowId: workflowId.vm(vm),
    args: [vm, site.pace],
  });
  await site.until('it runs', async () => (await rowOf()).hostKey !== null);
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
    const before = await rowOf();
    site.faults.plan(workflow, call, fault);
    const said = await read(reading).catch((error: unknown) =>
      error instanceof WorkflowFailedError ? 'cancelled' : Promise.reject(error),
    );
    expect(site.faults.fired(workflow)).toBe(true);
    expect([`Linux boots ${vm}\n`, 'disk-full', 'internal', 'host-unavailable', 'cancelled']).toContain(said);
    expect(await rowOf()).toEqual(before);
  },
);
