import { beforeEach, describe, expect, test } from 'vitest';
import type { PlanStep } from '../../contracts/ledger.ts';
import type { Placement } from '../../contracts/ledger-placement.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { BerthError } from '../../model/errors.ts';
import { newId, type TaskId, type VmId } from '../../model/ids.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, outcomeOf, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
const size = { vcpus: 2, memoryMiB: 4096, diskMiB: 10_000 };

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 1);
  for (const id of ['host-a', 'host-b']) await fixture.activities.registerHost(hostFacts(id, size));
});

const at = (inS: number): string => new Date(fixture.now + inS * 1000).toISOString();
const reservation = (inS: number, durationS: number, nodes = 2) => ({
  nodes,
  resources: { vcpus: 2, memoryMiB: 1024, diskMiB: 512 },
  lease: { kind: 'reservation', startAt: at(inS), durationS },
});
const work = (durationS: number, more: object = {}) => ({
  resources: { vcpus: 2, memoryMiB: 1024, diskMiB: 512 },
  lease: { kind: 'bestEffort', durationS, ...more },
});
const submit = (spec: object): Promise<TaskId> => accept(fixture, owner, spec as Record<string, unknown>);
const ask = (id: TaskId): Promise<Placement> => fixture.activities.reserveTask(id);

const leaseOf = async (id: TaskId) =>
  (await fixture.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true } })).lease;
const vmsOf = (id: TaskId) => fixture.ledger.vm.findMany({ where: { taskId: id }, orderBy: { node: 'asc' } });

/** Executes what is due, step by step, up to a moment. */
async function planUntil(ms: number): Promise<PlanStep[]> {
  const steps: PlanStep[] = [];
  for (;;) {
    const step = await fixture.activities.stepPlan();
    steps.push(step);
    if (step.wakeAt === null || Date.parse(step.wakeAt) > ms) break;
    fixture.now = Math.max(fixture.now + 1, Date.parse(step.wakeAt));
  }
  fixture.now = Math.max(fixture.now, ms);
  return steps;
}

/** Does what the workflow does: all VMs first, then the lease. */
async function suspendNow(id: TaskId): Promise<void> {
  expect(await fixture.activities.loadLeaseOrder(id)).toBe('suspend');
  for (const vm of await vmsOf(id)) {
    await fixture.activities.beginSuspension(vm.id as never);
    await fixture.activities.commitSuspension(vm.id as never);
  }
  expect(await fixture.activities.recordLeaseSuspended(id)).toEqual(['planner']);
}

async function begun(id: TaskId): Promise<void> {
  for (const [state, vmState] of [['stagingIn'], ['starting', 'creating'], ['running', 'running']] as const)
    await fixture.activities.advanceTask(id, state, [], vmState);
}

describe('a reservation', () => {
  test('is promised its hosts when it is accepted, and gets them at its time', async () => {
    const id = await submit(reservation(600, 300));
    const lease = await leaseOf(id);
    expect(lease.plannedHosts.toSorted()).toEqual(['host-a', 'host-b']);
    expect(lease.endAt!.getTime() - lease.startAt!.getTime()).toBe(300_000);
    expect(await ask(id)).toMatchObject({ placed: false, planActive: true, term: { startAt: expect.any(String) } });
    await planUntil(lease.startAt!.getTime() - 60_000);
    expect(await ask(id)).toMatchObject({ placed: false });
    const steps = await planUntil(lease.startAt!.getTime());
    expect(steps.flatMap(({ placed }) => placed)).toContain(id);
    const answer = await ask(id);
    expect(answer).toMatchObject({
      placed: true,
      term: { endAt: lease.endAt!.toISOString().replace('Z', '+00:00').replace('.000', '') },
    });
    expect((await usage(fixture)).map(({ said }) => said[0])).toEqual([2, 2]);
  });

  test('that is impossible is refused with possible alternatives, and leaves nothing', async () => {
    await submit(reservation(600, 300));
    const error = (await failure(submit(reservation(600, 300)))) as unknown as BerthError;
    expect(error).toMatchObject({ code: 'lease-refused', extra: { reason: 'no-capacity' } });
    const alternatives = error.extra.alternatives as { change: string; startAt: string; nodes: number; durationS: number }[];
    expect(alternatives.map(({ change }) => change)).toContain('later');
    expect(await fixture.ledger.task.count()).toBe(1);
    expect(await fixture.ledger.lease.count()).toBe(1);
    for (const { startAt, nodes, durationS } of alternatives.slice(0, 1))
      await submit({ ...reservation(0, durationS, nodes), lease: { kind: 'reservation', startAt, durationS } });
  });

  test('that starts before its VMs could boot is refused', async () => {
    expect(await failure(submit(reservation(1, 300)))).toMatchObject({ code: 'lease-refused' });
  });

  test('of concurrent requests for the last hosts, one is promised', async () => {
    const order = reservation(600, 300);
    const ends = await Promise.allSettled([submit(order), submit(order), submit(order)]);
    expect(ends.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  });

  test('that could not begin in its time is broken, and its task fails with that', async () => {
    const id = await submit(reservation(100, 50));
    for (const host of ['host-a', 'host-b']) await fixture.activities.markHostUnreachable(host as never);
    const { startAt } = await leaseOf(id);
    const steps = await planUntil(startAt!.getTime() + 60_000);
    expect(steps.flatMap(({ placed }) => placed)).toContain(id);
    expect(await failure(ask(id))).toMatchObject({ code: 'promise-broken' });
  });

  test('is assigned other hosts when its own are lost', async () => {
    const id = await submit(reservation(600, 300, 1));
    const [first] = (await leaseOf(id)).plannedHosts;
    await fixture.activities.markHostUnreachable(first as never);
    await fixture.activities.stepPlan();
    expect((await leaseOf(id)).plannedHosts).not.toContain(first);
    expect((await leaseOf(id)).plannedHosts).toHaveLength(1);
  });
});

describe('best effort', () => {
  test('is placed at once where nothing is promised', async () => {
    const id = await submit(work(3600));
    expect(await ask(id)).toMatchObject({ placed: true, term: null });
  });

  test('fills the time before a promise, is suspended for it, and resumes after it', async () => {
    const running = [await submit(work(3600)), await submit(work(3600))];
    for (const id of running) {
      expect(await ask(id)).toMatchObject({ placed: true });
      await begun(id);
    }
    const promised = await submit(reservation(300, 120));
    const { startAt } = await leaseOf(promised);
    await planUntil(startAt!.getTime() - 60_000);
    expect(await Promise.all(running.map((id) => fixture.activities.loadLeaseOrder(id)))).toEqual(['run', 'run']);
    const steps = await planUntil(startAt!.getTime() - 16_000);
    expect(steps.flatMap(({ leaseOrderChanged: changed }) => changed)).toEqual(expect.arrayContaining(running));
    for (const id of running) await suspendNow(id);
    expect((await usage(fixture)).map(({ said }) => said[0])).toEqual([0, 0]);
    await planUntil(startAt!.getTime());
    expect(await ask(promised)).toMatchObject({ placed: true });
    await begun(promised);
    await planUntil(startAt!.getTime() + 60_000);
    expect(await Promise.all(running.map((id) => fixture.activities.loadLeaseOrder(id)))).toEqual(['suspend', 'suspend']);
    const vms = (await vmsOf(promised)).map(({ id }) => id as never);
    for (const [state, vmState] of [['stagingOut', 'removing']] as const)
      await fixture.activities.advanceTask(promised, state, [], vmState);
    expect(await fixture.activities.finishTask(promised, outcomeOf(), vms)).toEqual(['planner']);
    const step = await fixture.activities.stepPlan();
    expect(step.leaseOrderChanged.toSorted()).toEqual(running.toSorted());
    for (const id of running) {
      expect(await fixture.activities.loadLeaseOrder(id)).toBe('resume');
      expect((await vmsOf(id)).map(({ state }) => state)).toEqual(['restoring']);
      for (const vm of await vmsOf(id)) {
        await fixture.activities.beginRestoration(vm.id as never);
        await fixture.activities.commitRestoration(vm.id as never);
      }
      await fixture.activities.recordLeaseResumed(id);
      const lease = await leaseOf(id);
      expect(lease).toMatchObject({ suspension: null, operation: null, suspensions: 1 });
      expect(lease.leftS!).toBeGreaterThan(3200);
      expect(lease.leftS!).toBeLessThan(3400);
    }
    expect(await fixture.activities.stepPlan()).toMatchObject({ wakeAt: null });
  });

  test('that may not be preempted prevents a promise, which is refused', async () => {
    for (const id of [await submit(work(3600, { preemptible: false })), await submit(work(3600, { preemptible: false }))])
      expect(await ask(id)).toMatchObject({ placed: true });
    expect(await failure(submit(reservation(300, 120)))).toMatchObject({ code: 'lease-refused' });
  });

  test('waits while a plan has no capacity for it, and only the planner places', async () => {
    await submit(reservation(20, 3600));
    const id = await submit(work(3600));
    expect(await ask(id)).toMatchObject({ placed: false, planActive: true });
    expect(await fixture.activities.registerHost(hostFacts('host-c', size))).toEqual(['planner']);
    await fixture.activities.stepPlan();
    expect(await ask(id)).toMatchObject({ placed: true, vms: [{ host: 'host-c' }] });
  });

  test('with a deadline that can be met is promised a start that meets it; with another it is refused', async () => {
    const id = await submit(work(600, { deadline: at(1000) }));
    const { startAt, endAt } = await leaseOf(id);
    expect(endAt!.getTime()).toBeLessThanOrEqual(fixture.now + 1000_000);
    expect(endAt!.getTime() - startAt!.getTime()).toBe(600_000);
    expect(await failure(submit(work(600, { deadline: at(300) })))).toMatchObject({
      code: 'lease-refused',
      extra: { reason: 'deadline' },
    });
  });
});

test('a host that suspended slower than planned is planned slower from then on', async () => {
  const id = await submit(work(3600));
  await ask(id);
  await begun(id);
  const promised = await submit(reservation(100, 60));
  await planUntil((await leaseOf(promised)).startAt!.getTime() - 16_000);
  fixture.now += 120_000;
  const host = (await vmsOf(id))[0]!.hostId!;
  await suspendNow(id);
  expect((await fixture.ledger.host.findUniqueOrThrow({ where: { id: host } })).slowness).toBeGreaterThan(2);
});

describe('the lead time of a reservation', () => {
  /** Inserts leases that have ended, with one VM on each host and this lead time in seconds. */
  async function past(lasted: number[], boot: 'warm' | 'cold', memoryMiB = 1024): Promise<void> {
    const { id: imageId } = await fixture.ledger.image.findFirstOrThrow();
    for (const seconds of lasted) {
      fixture.now += 1000;
      const common = { ownerId: owner, createdAt: new Date(fixture.now) };
      const startedAt = new Date(fixture.now);
      const lease = { id: newId('lease'), kind: 'bestEffort' as const, durationS: 60 };
      const measured = { startedAt, endedAt: startedAt, leadMs: seconds * 1000, tailMs: 1000 };
      await fixture.ledger.lease.create({ data: { ...common, ...lease, ...measured } });
      for (const hostId of ['host-a', 'host-b'])
        await fixture.ledger.vm.create({
          data: {
            ...common,
            id: newId('vm'),
            name: 'past',
            state: 'removed',
            vcpus: 2,
            memoryMiB,
            diskMiB: 512,
            imageId,
            leaseId: lease.id,
            hostId,
            homeId: hostId,
            generation: 1,
            boot,
            bootWhy: boot === 'cold' ? 'no-template' : null,
            placedAt: startedAt,
          },
        });
    }
  }
  const many = (n: number, seconds: number): number[] => Array.from({ length: n }, () => seconds);

  test('is estimated from VMs that started as its own will: from a template on every host, or by a boot', async () => {
    await past(many(5, 60), 'cold', 2048);
    await past(many(5, 3), 'warm');
    await submit(reservation(10, 60));
    const large = reservation(10, 60);
    const wanted = { ...large, resources: { ...large.resources, memoryMiB: 2048 } };
    expect(await failure(submit(wanted))).toMatchObject({ extra: { reason: 'too-soon' } });
    await submit({ ...wanted, lease: { ...wanted.lease, startAt: at(200) } });
  });

  test('is not changed by a burst of slow starts, and follows a lasting change', async () => {
    await past([...many(14, 3), ...many(10, 100)], 'warm');
    await submit(reservation(10, 60));
    await past(many(16, 100), 'warm');
    expect(await failure(submit(reservation(60, 60)))).toMatchObject({ extra: { reason: 'too-soon' } });
  });

  test('assumes no template where the last VM of the kind had to boot on one of the hosts', async () => {
    await past(many(5, 60), 'cold', 2048);
    await past(many(5, 3), 'warm');
    await fixture.ledger.vm.updateMany({ where: { hostId: 'host-b' }, data: { boot: 'cold', bootWhy: 'no-template' } });
    expect(await failure(submit(reservation(10, 60)))).toMatchObject({ extra: { reason: 'too-soon' } });
  });
});

describe('a standalone VM', () => {
  const alone = (name: string, more: object): Promise<VmId> => {
    const resources = { vcpus: 2, memoryMiB: 512, diskMiB: 100 };
    const order = VmRequest.parse({ name, image: 'debian-12', resources, ...more });
    return fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
  };

  test('is placed by the plan in a gap that is long enough for it, and its workflow is notified', async () => {
    await submit(reservation(600, 300));
    const brief = await alone('brief', { lease: { durationS: 120 } });
    const endless = await alone('endless', {});
    expect(await fixture.activities.reserveVm(brief)).toMatchObject({ placed: false });
    expect((await fixture.activities.stepPlan()).placed).toEqual([brief]);
    expect(await fixture.activities.reserveVm(brief)).toMatchObject({ placed: true });
    expect(await fixture.activities.reserveVm(endless)).toMatchObject({ placed: false, refusal: { failed: { planned: 2 } } });
    // It is notified again until it answers.
    expect((await fixture.activities.stepPlan()).placed).toEqual([brief]);
  });

  test('is promised a fixed start, or refused; a promise without hosts in its whole time is broken', async () => {
    const lease = { kind: 'reservation', startAt: at(100), durationS: 50 };
    const id = await alone('promised', { lease });
    await alone('beside', { lease });
    expect(await failure(alone('third', { lease }))).toMatchObject({ code: 'lease-refused', extra: { reason: 'no-capacity' } });
    const [host] = (await fixture.ledger.lease.findFirstOrThrow({ where: { vms: { some: { id } } } })).plannedHosts;
    expect(await fixture.activities.reserveVm(id)).toMatchObject({
      placed: false,
      planActive: true,
      term: { startAt: lease.startAt },
      prefetch: { hosts: [host], complete: false },
    });
    await planUntil(fixture.now + 90_000);
    expect(await fixture.activities.reserveVm(id)).toMatchObject({ placed: true, vm: { host } });
    expect(await fixture.activities.loadVmDesired(id)).toMatchObject({
      leaseEndsAt: new Date(Date.parse(lease.startAt) + 50_000).toISOString(),
    });
    const never = await alone('never', { lease: { kind: 'reservation', startAt: at(600), durationS: 50 } });
    for (const one of ['host-a', 'host-b']) await fixture.activities.markHostUnreachable(one as never);
    fixture.now += 700_000;
    expect(await failure(fixture.activities.reserveVm(never))).toMatchObject({ code: 'promise-broken' });
  });

  test('that is being removed is not placed', async () => {
    await submit(reservation(600, 300));
    const id = await alone('gone', { lease: { durationS: 120 } });
    await fixture.ledger.vm.update({ where: { id }, data: { removalRequestedAt: new Date(fixture.now) } });
    expect((await fixture.activities.stepPlan()).placed).toEqual([]);
  });
});
