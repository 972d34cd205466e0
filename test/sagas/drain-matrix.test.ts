import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { type DrainId, type DrainState, isDrainOver } from '../../model/drain.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRun } from './faults.ts';

const side = 6;
vi.setConfig({ maxConcurrency: side, testTimeout: 240_000 });

let site: FakeSite;
/** Hosts that no test is draining at the moment; there are always some more than these as targets. */
let free: FakeHost[];
beforeAll(async () => {
  site = await openFakeSite({
    hosts: side + 3,
    run: () => ({ exitCode: 0, durationMs: endless, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  free = site.hosts.slice(0, side);
  // So that no VM moves to a host that another test is about to empty.
  await site.ledger.host.updateMany({ where: { id: { in: free.map(({ id }) => id) } }, data: { acceptsMigrations: false } });
});
afterAll(() => site.stop());

const week = 7 * 24 * 3600;

interface Draining {
  host: FakeHost;
  task: TaskId;
  vm: VmId;
  id: DrainId;
  workflow: string;
}

/**
 * A task that runs on a host of its own, which a drain will empty. It is placed where its image is, and on no other host.
 */
async function draining(): Promise<Draining> {
  const host = free.shift();
  if (host === undefined) throw new Error('BUG: more tests at a time than hosts');
  try {
    return await drainingOf(host);
  } catch (error) {
    free.push(host);
    throw error;
  }
}

async function drainingOf(host: FakeHost): Promise<Draining> {
  // Before the task is accepted: after that, any pass of the planner may place it.
  const image = await site.publishImage();
  host.images.set(image, { boots: true, pinnedUntilMs: 0 });
  await site.ledger.hostImage.create({ data: { hostId: host.id, imageId: image } });
  const task = await site.submit({ image: image, timeoutS: week, lease: { kind: 'bestEffort', durationS: week } });
  const row = () => site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
  await site.until('it runs', async () => {
    const { id, state } = await row();
    return state === 'running' && (host.jobsStarted.get(id) ?? 0) === 1;
  });
  const nowMs = Date.now();
  const order = {
    host: host.id,
    deadlineMs: nowMs + 3600_000,
    strategy: 'auto' as const,
    mode: 'auto' as const,
    moveDisks: false,
    suspendInPlace: 'never' as const,
    confidence: 0.99,
  };
  const more = { returnAfterMs: null, returnVms: false, owner: site.owner, reason: null, nowMs };
  const id = await site.ledger.$transaction((tx) => acceptDrain(tx, { ...order, ...more }));
  const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id } });
  return { host, task, vm: (await row()).id as VmId, id, workflow: workflowId.drain(host.id, number) };
}

/** Its deadline is moved close once its VM is being observed, so that every call of a drain is made. */
async function run({ id, workflow }: Draining): Promise<DrainState> {
  const handle = await site.client.workflow.start(workflowType.drain, {
    taskQueue: controlQueue,
    workflowId: workflow,
    args: [id, 0.2],
  });
  const state = async () => (await site.ledger.drain.findUniqueOrThrow({ where: { id } })).state;
  const hasObserved = () => site.faults.callsOf(workflow).some(({ name }) => name === 'observeLoads');
  await site.until('its VM is observed', async () => hasObserved() || (await state()) === 'cancelled');
  await site.ledger.drain.updateMany({ where: { id, finishedAt: null }, data: { deadline: new Date(Date.now() + 500) } });
  if ((await state()) !== 'cancelled') await handle.signal(signalName.orderChanged).catch(() => undefined);
  await site
    .until('it is over', async () => isDrainOver(await state()))
    .catch(async (error: Error) => {
      const moves = await site.ledger.migration.findMany({ where: { requestedBy: id } });
      throw new Error(
        `${error.message}: ${await site.detailsOf(workflow)}; ${JSON.stringify(moves, (_, value) => (typeof value === 'bigint' ? Number(value) : value))}`,
      );
    });
  return handle.result();
}

/** The VM runs once, where the ledger says; the host is empty or open again; the drain has reported this once. */
async function expectWhole({ id, vm, host }: Draining, state: DrainState): Promise<void> {
  const row = await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
  const at = site.hosts.filter((one) => one.domains.has(vm)).map((one) => one.id);
  expect([row.state, at]).toEqual(['running', [row.hostId]]);
  const drain = await site.ledger.drain.findUniqueOrThrow({ where: { id } });
  expect(drain.state).toBe(state);
  const closed = await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } });
  expect(closed.schedulable).toBe(state === 'cancelled');
  if (state === 'empty') expect([...host.domains.keys()]).toEqual([]);
  const ends = ['berth.drain.emptied', 'berth.drain.incomplete', 'berth.drain.cancelled'];
  const events = await site.ledger.event.findMany({ where: { subject: id, type: { in: ends } } });
  expect(events.map(({ type }) => type)).toEqual([`berth.drain.${state === 'empty' ? 'emptied' : state}`]);
  for (const one of site.hosts) expect(one.violations).toEqual([]);
}

async function finish({ task, host }: Draining): Promise<void> {
  await site.cancel(task);
  await site.ended(task);
  await expectEverythingOrNothing(site, task);
  await site.ledger.host.update({ where: { id: host.id }, data: { schedulable: true } });
  free.push(host);
}

const call = (name: string, nth = 1): Call => ({ name, nth });
/** The number of rounds of a drain varies; each round makes these calls. */
const calls: Call[] = [
  call('stepDrain', 1),
  call('issueImageRef'),
  call('ensureImage'),
  call('recordImageCached'),
  call('observeLoads'),
  call('recordLoads'),
  call('stepDrain', 3),
  call('observeInventory'),
  call('verifyHostEmpty'),
];

test('the matrix covers every call of a drain', async () => {
  const drain = await draining();
  await run(drain);
  const names = new Set(site.faults.callsOf(drain.workflow).map(({ name }) => name));
  expect([...names].sort()).toEqual([...new Set(calls.map(({ name }) => name))].sort());
  await finish(drain);
});

test.concurrent.each(everyRun(calls))('$at: $what', async ({ calls: struck, fault }) => {
  const drain = await draining();
  site.faults.plan(drain.workflow, struck, fault);
  try {
    const state = await run(drain);
    expect(site.faults.fired(drain.workflow)).toBe(true);
    if (fault === 'late') await site.faults.runLate(drain.workflow);
    expect(fault.startsWith('cancelled') ? ['empty', 'cancelled'] : ['empty']).toContain(state);
    await expectWhole(drain, state);
  } finally {
    await finish(drain);
  }
});

test('afterwards the site is empty', () => expectEmptySite(site));
