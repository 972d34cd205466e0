import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { type DrainId, isDrainOver } from '../../model/drain.ts';
import type { VmId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { expectEmptySite } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyFault, type Fault } from './faults.ts';

/** The steps of a drain that suspends in place, in its own saga and in that of the VM, × the faults of each step. */
const side = 8;
vi.setConfig({ maxConcurrency: side, testTimeout: 240_000 });

let site: FakeSite;
/** Hosts that no test is draining at the moment. */
let free: FakeHost[];
beforeAll(async () => {
  site = await openFakeSite({ hosts: side });
  free = [...site.hosts];
  // So that no other host can take a VM.
  await site.ledger.host.updateMany({ data: { acceptsMigrations: false } });
});
afterAll(() => site.stop());

interface Case {
  host: FakeHost;
  vm: VmId;
  drain: DrainId;
  /** The workflows of the drain and of the VM. */
  workflows: { drain: string; vm: string };
}

async function onHostOfItsOwn(act: (one: Case) => Promise<void>): Promise<void> {
  const host = free.shift();
  if (host === undefined) throw new Error('BUG: more tests at a time than hosts');
  try {
    const one = await prepared(host);
    await act(one);
    await remove(one);
  } finally {
    await site.ledger.host.update({ where: { id: host.id }, data: { schedulable: true } });
    free.push(host);
  }
}

const rowOf = (id: VmId) => site.ledger.vm.findUniqueOrThrow({ where: { id } });
const drainOf = (id: DrainId) => site.ledger.drain.findUniqueOrThrow({ where: { id } });

let made = 0;

/** The VM belongs to no task, and runs on the host that has its image. */
async function prepared(host: FakeHost): Promise<Case> {
  const image = await site.publishImage();
  host.images.set(image, { boots: true, pinnedUntilMs: 0 });
  await site.ledger.hostImage.create({ data: { hostId: host.id, imageId: image } });
  made += 1;
  const order = VmRequest.parse({ name: `alone-${made}`, image, firstBoot: ['true'] });
  const vm = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
  const options = { taskQueue: controlQueue, workflowId: workflowId.vm(vm), args: [vm, site.pace] };
  await site.client.workflow.start(workflowType.vm, options);
  await site.until(`${vm} runs`, async () => (await rowOf(vm)).hostKey !== null);
  expect((await rowOf(vm)).hostId).toBe(host.id);
  const nowMs = Date.now();
  const how = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'ifStuck', confidence: 0.99 } as const;
  const times = { deadlineMs: nowMs + 3600_000, returnAfterMs: nowMs + 7200_000, nowMs };
  const drain = await site.ledger.$transaction((tx) =>
    acceptDrain(tx, { ...how, ...times, host: host.id, returnVms: true, owner: site.owner, reason: null }),
  );
  const { number } = await drainOf(drain);
  return { host, vm, drain, workflows: { drain: workflowId.drain(host.id, number), vm: workflowId.vm(vm) } };
}

async function run({ host, vm, drain, workflows }: Case, whenHeld: () => void): Promise<void> {
  const options = { taskQueue: controlQueue, workflowId: workflows.drain, args: [drain, 0.2] };
  const handle = await site.client.workflow.start(workflowType.drain, options);
  const change = async (data: { deadline: Date } | { returnAfter: Date }) => {
    await site.ledger.drain.update({ where: { id: drain }, data });
    await handle.signal(signalName.orderChanged);
  };
  const until = (what: string, state: (state: string) => boolean) =>
    site
      .until(what, async () => state((await drainOf(drain)).state))
      .catch(async (error: Error) => {
        throw new Error(`${error.message}: ${await site.detailsOf(workflows.drain)}`);
      });
  await change({ deadline: new Date(Date.now() + 200) });
  await until('it is held', (state) => state === 'held');
  // Whatever the fault was, the evidence is the same: nothing of the VM runs, and its saved memory is complete.
  expect([(await rowOf(vm)).state, host.domains.size]).toEqual(['suspended', 0]);
  expect([...host.memories].filter(([path]) => path.includes(vm)).map(([, memory]) => memory.complete)).toEqual([true]);
  whenHeld();
  await change({ returnAfter: new Date(Date.now() + 200) });
  await until('it is over', (state) => isDrainOver(state as Parameters<typeof isDrainOver>[0]));
  expect(await handle.result()).toBe('returned');
}

/** The VM runs once again, the host is open, and the events report one suspension and one restoration. */
async function expectWhole({ host, vm, drain }: Case): Promise<void> {
  const row = await rowOf(vm);
  expect([row.state, row.operation, [...host.domains.keys()]]).toEqual(['running', null, [vm]]);
  expect(await drainOf(drain)).toMatchObject({ state: 'returned', remaining: null });
  expect(await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).toMatchObject({ schedulable: true });
  const events = await site.ledger.event.findMany({ where: { subject: vm }, orderBy: { seq: 'asc' } });
  const reported = events.map(({ type }) => type.replace('berth.vm.', ''));
  expect(reported).toEqual(['created', 'started', 'suspended', 'restored']);
  expect(host.violations).toEqual([]);
}

async function remove({ vm, workflows }: Case): Promise<void> {
  await site.ledger.vm.update({ where: { id: vm }, data: { removalRequestedAt: new Date() } });
  const handle = site.client.workflow.getHandle(workflows.vm);
  await handle.signal(signalName.operationRequested);
  await handle.result();
}

interface Planned extends Call {
  workflow: keyof Case['workflows'];
  /** Counted from when the host is held: the number of polls before that depends on the speed of the machine. */
  held: boolean;
}
const of = (workflow: keyof Case['workflows'], name: string, nth = 1, held = false): Planned => ({ workflow, name, nth, held });
const calls: Planned[] = [
  // The poll that requests the suspension is among the first two or three, and the one that releases the VM is the first or
  // second of the last two or three.
  ...[2, 3].map((nth) => of('drain', 'stepDrain', nth)),
  ...[1, 2].map((nth) => of('drain', 'stepDrain', nth, true)),
  ...['observeInventory', 'verifyHostEmpty'].map((name) => of('drain', name)),
  // vms.test.ts covers the other steps of the VM: these are the ones that a drain depends on.
  ...['suspendVm', 'commitSuspension', 'restoreVm', 'endOperation'].map((name) => of('vm', name)),
];
const injected: Fault[] = ['failsAfter', 'twice', 'late', 'killedAfter'];
/** vms.test.ts also covers late attempts of the VM's steps, where the VM no longer exists by then. */
const cases = everyFault(calls, injected).filter(({ workflow, fault }) => fault !== 'late' || workflow === 'drain');

test.concurrent.each(cases)('$workflow $name $nth, held: $held: $what', ({ held, name, nth, workflow: whose, fault }) =>
  onHostOfItsOwn(async (one) => {
    const workflow = one.workflows[whose];
    const plan = (before: number) => site.faults.plan(workflow, { name, nth: before + nth }, fault);
    if (!held) plan(0);
    await run(one, () => {
      if (held) plan(site.faults.callsOf(workflow).filter((call) => call.name === name).length);
    });
    expect(site.faults.fired(workflow)).toBe(true);
    if (fault === 'late') await site.faults.runLate(workflow);
    await expectWhole(one);
  }),
);

test.concurrent.each([
  ['powered itself off', 'stopped', 'powered-off', (host: FakeHost, vm: VmId) => host.powerOff(vm)],
  ['crashed', 'crashed', 'guest-crashed', (host: FakeHost, vm: VmId) => host.crashDomain(vm)],
] as const)('a VM that has %s, unnoticed, is %s and not stuck, and the drain goes on', (_, state, code, end) =>
  onHostOfItsOwn(async (one) => {
    const { host, vm, drain, workflows } = one;
    // Nobody tells the ledger: the suspension that the drain asks for is the first to find out.
    const watchers = [...host.watchers];
    host.watchers.clear();
    end(host, vm);
    for (const watcher of watchers) host.watchers.add(watcher);
    expect((await rowOf(vm)).state).toBe('running');
    const options = { taskQueue: controlQueue, workflowId: workflows.drain, args: [drain, 0.2] };
    const handle = await site.client.workflow.start(workflowType.drain, options);
    const change = async (data: { deadline: Date } | { returnAfter: Date }) => {
      await site.ledger.drain.update({ where: { id: drain }, data });
      await handle.signal(signalName.orderChanged);
    };
    await change({ deadline: new Date(Date.now() + 200) });
    await site.until('it is held', async () => (await drainOf(drain)).state === 'held');
    expect(await rowOf(vm)).toMatchObject({ state, operation: null, problem: { code } });
    await change({ returnAfter: new Date(Date.now() + 200) });
    expect(await handle.result()).toBe('returned');
    expect(await rowOf(vm)).toMatchObject({ state, operation: null });
    expect(site.faults.callsOf(workflows.vm).map(({ name }) => name)).toContain('suspendVm');
    expect(host.violations).toEqual([]);
  }),
);

test('afterwards the site is empty', () => expectEmptySite(site));
