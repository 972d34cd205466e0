import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { TaskId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { isFull } from '../tier.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRun, type Fault, faults } from './faults.ts';

vi.setConfig({ testTimeout: 240_000, hookTimeout: 600_000 });

const call = (name: string, nth = 1): Call => ({ name, nth });

/** The calls of a task's workflow between its command's start and its end, when it is suspended once. */
const leaseCalls: Call[] = [
  call('loadLeaseOrder', 1),
  call('loadVmLocation', 1),
  call('beginSuspension'),
  call('suspendVm'),
  call('commitSuspension'),
  call('recordLeaseSuspended'),
  call('loadLeaseOrder', 2),
  call('loadVmLocation', 2),
  call('beginRestoration'),
  call('restoreVm'),
  call('commitRestoration'),
  call('recordLeaseResumed'),
  call('issueTaskStepArgs'),
  call('runCommand', 2),
];
/** The steps before the work is suspended; after a refusal of one of these the work continues to run. */
const suspending = new Set(['loadVmLocation 1', 'beginSuspension 1', 'suspendVm 1', 'commitSuspension 1']);

interface Case {
  calls: Call[];
  /** null: the run without one. */
  fault: Fault | null;
  id: TaskId;
}

const perHost = 8;
const cases: Omit<Case, 'id'>[] = [{ calls: [], fault: null }, ...everyRun(leaseCalls)];
const nameOf = ({ calls, fault }: Omit<Case, 'id'>) =>
  fault === null ? 'calls, without a fault' : `${calls.map(({ name, nth }) => `${name} ${nth}`).join(', ')}: ${fault}`;

let site: FakeSite;
const ran = new Map<string, Case>();

/**
 * All tasks at once: they are suspended for hosts that have to be vacant, and resume when the hosts no longer have to be.
 */
beforeAll(async () => {
  site = await openFakeSite({
    hosts: Math.ceil(cases.length / perHost),
    capacity: { vcpus: perHost, memoryMiB: 65_536, diskMiB: 262_144 },
    run: () => ({ exitCode: 0, durationMs: endless, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  const image = await site.publishImage();
  const order = { image, timeoutS: 7 * 24 * 3600, lease: { kind: 'bestEffort', durationS: 7 * 24 * 3600 } };
  for (const one of cases) ran.set(nameOf(one), { ...one, id: await site.accept(order) });
  for (const { calls: planned, fault, id } of ran.values()) {
    if (fault !== null) site.faults.plan(workflowId.task(id), planned, fault);
    await site.start(id);
  }
  const rows = () => site.ledger.task.findMany({ select: { state: true, lease: { select: { suspension: true } } } });
  const isOver = (state: string) => ['succeeded', 'failed', 'cancelled'].includes(state);
  await site.until('all run', async () => (await rows()).every(({ state }) => state === 'running'));
  await site.startPlanner();
  await vacate(new Date());
  const isAway = async () => (await rows()).every(({ state, lease }) => isOver(state) || lease.suspension === 'suspended');
  await site.until('all are suspended', isAway);
  await vacate(null);
  await site.until('all run again', async () =>
    (await rows()).every(({ state, lease }) => isOver(state) || lease.suspension === null),
  );
  release();
  await Promise.all([...ran.values()].map(({ id }) => site.ended(id)));
});
afterAll(async () => {
  await expectEmptySite(site);
  await site.stop();
});

/** Lets the commands that run now end. */
function release(): void {
  for (const { domains } of site.hosts)
    for (const { job } of domains.values()) if (typeof job === 'object') job.run.durationMs = 50;
}

async function vacate(from: Date | null): Promise<void> {
  const until = from && new Date(from.getTime() + 3600_000);
  await site.ledger.host.updateMany({ data: { vacantFrom: from, vacantUntil: until } });
  await site.client.workflow.getHandle(workflowId.planner()).signal(signalName.replan);
}

test('the matrix covers every call of a task that is suspended once', () => {
  const { id } = ran.get(nameOf(cases[0]!))!;
  const recorded = site.faults.callsOf(workflowId.task(id)).map(({ name, nth }) => `${name} ${nth}`);
  const of = recorded.slice(recorded.indexOf('loadLeaseOrder 1'), recorded.indexOf('runCommand 2') + 1);
  // A workflow that is notified again queries again, so the number of calls varies.
  const names = (calls: string[]) => [...new Set(calls.map((one) => one.split(' ')[0]))].toSorted();
  expect(names(of)).toEqual(names(leaseCalls.map(({ name }) => name)));
});

function legalEnds({ calls, fault }: Case): string[] {
  if (fault?.startsWith('cancelled')) return ['cancelled'];
  if (fault?.startsWith('refused'))
    return calls.every(({ name, nth }) => suspending.has(`${name} ${nth}`)) ? ['succeeded'] : ['failed'];
  return ['succeeded'];
}

describe('a task that is suspended and resumed ends well, or is undone, whatever fault is injected: its', () => {
  test.each(cases.map(nameOf))('%s', async (name) => {
    const one = ran.get(name)!;
    if (one.fault !== null) expect(site.faults.fired(workflowId.task(one.id))).toBe(true);
    const before = await rowsOf(site, one.id);
    if (one.fault === 'late') await site.faults.runLate(workflowId.task(one.id));
    expect(await rowsOf(site, one.id)).toEqual(before);
    expect(legalEnds(one)).toContain(before.task.state);
    if (before.task.state === 'failed') expect(before.task.error).toMatchObject({ code: 'disk-full' });
    await expectEverythingOrNothing(site, one.id);
  });
});

describe('the plan is executed once, though its step', () => {
  const planner = workflowId.planner();
  /** Injects a fault in the planner's next decision. */
  const injectNext = (fault: Fault): void => {
    const nth = site.faults.callsOf(planner).filter(({ name }) => name === 'stepPlan').length + 1;
    site.faults.plan(planner, call('stepPlan', nth), fault);
  };
  // It is a step on the ledger: killed-control.test.ts kills its worker.
  const some: Fault[] = isFull ? ['failsBefore', 'failsAfter', 'twice', 'killedBefore', 'killedAfter'] : ['failsAfter', 'twice'];

  test.each(some.map((fault) => [faults[fault], fault] as const))('%s', async (_, fault) => {
    const week = 7 * 24 * 3600;
    const id = await site.submit({ timeoutS: week, lease: { kind: 'bestEffort', durationS: week } });
    const row = () => site.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true, vms: true } });
    const jobs = (vm: string) => site.hosts.reduce((sum, host) => sum + (host.jobsStarted.get(vm) ?? 0), 0);
    await site.until('it runs', async () => jobs((await row()).vms[0]!.id) === 1);
    injectNext(fault);
    await vacate(new Date());
    await site.until('it is suspended', async () => (await row()).lease.suspension === 'suspended');
    expect(site.faults.fired(planner)).toBe(true);
    injectNext(fault);
    await vacate(null);
    await site.until('it runs again', async () => (await row()).lease.suspension === null);
    expect(site.faults.fired(planner)).toBe(true);
    release();
    expect(await site.ended(id)).toBe('succeeded');
    expect((await row()).lease.suspensions).toBe(1);
    await expectEverythingOrNothing(site, id);
  });
});
