import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import type { PlanStep } from '../../contracts/ledger.ts';
import { applyPlan, planNow, stepPlan } from '../../ledger/leases/execute-plan.ts';
import type { LedgerDeps } from '../../ledger/transaction.ts';
import { readConfig } from '../../model/config.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { isFull } from '../tier.ts';
import {
  accept,
  addImage,
  addOwner,
  changedMeanwhile,
  empty,
  hostFacts,
  outcomeOf,
  signingKey,
  usage,
  useLedger,
} from './ledger-fixture.ts';

/** The planner plans before it takes the placement lock. What has changed until then is left out of what it applies. */

const fixture = useLedger();
let owner: string;
let deps: LedgerDeps;
const size = { vcpus: 2, memoryMiB: 4096, diskMiB: 10_000 };

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 1);
  for (const id of ['host-a', 'host-b']) await fixture.activities.registerHost(hostFacts(id, size));
  const env = { BERTH_SIGNING_KEY: signingKey, BERTH_REPOSITORY_URL: 'http://repository.test:8080/' };
  deps = { ledger: fixture.ledger, ...readConfig(['signing', 'control'], env), clock: () => fixture.now };
});

const at = (inS: number): string => new Date(fixture.now + inS * 1000).toISOString();
const each = (vcpus: number) => ({ vcpus, memoryMiB: 256, diskMiB: 64 });
const reserve = (inS: number, durationS: number, nodes = 1, vcpus = 2): Promise<TaskId> =>
  accept(fixture, owner, { nodes, resources: each(vcpus), lease: { kind: 'reservation', startAt: at(inS), durationS } });
const queue = (durationS: number, more: object = {}, vcpus = 1): Promise<TaskId> =>
  accept(fixture, owner, { resources: each(vcpus), lease: { kind: 'bestEffort', durationS, ...more } });

const vmOf = (taskId: TaskId) => fixture.ledger.vm.findFirstOrThrow({ where: { taskId } });
const leaseOf = async (id: TaskId) =>
  (await fixture.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true } })).lease;

/** Plans, lets something happen, and applies the plan that is stale then. */
async function late(between: () => Promise<unknown>): Promise<{ step: PlanStep; refused: string[] }> {
  const plan = await planNow(deps, fixture.ledger);
  await between();
  return fixture.ledger.$transaction((tx) => applyPlan(deps, tx, plan));
}

describe('a start that was planned', () => {
  /** Both hosts are promised later, and work that can't be suspended fits before that. */
  async function startPlanned(): Promise<{ id: TaskId; lease: string }> {
    await reserve(600, 300, 2);
    const id = await queue(60, { preemptible: false });
    return { id, lease: (await leaseOf(id)).id };
  }

  test('is applied where nothing has changed, and where capacity was given back', async () => {
    const other = await queue(60);
    await fixture.activities.reserveTask(other);
    const { id } = await startPlanned();
    const { refused, step } = await late(() => finish(other));
    expect([refused, step.placed]).toEqual([[], expect.arrayContaining([id])]);
    expect(await vmOf(id)).toMatchObject({ state: 'reserved', generation: 1 });
  });

  const host = (change: string) => () => fixture.sql(`UPDATE "Host" SET ${change}`);
  test.each([
    ['its host was closed', host('schedulable = false')],
    ['its host does not answer', host(`state = 'unknown'`)],
    ["its host's clock is off", host('"clockOff" = true')],
    ['its host has to be empty', host(`"vacantFrom" = now() + interval '30 s', "vacantUntil" = now() + interval '1 h'`)],
    ['its host has less capacity', host('vcpus = 1')],
    [
      'something took capacity of its host',
      async () => {
        await host('"usedVcpus" = "usedVcpus" + 1')();
        await host('"usedVcpus" = "usedVcpus" - 1')();
      },
    ],
    [
      'the promise on its host begins elsewhere',
      () => fixture.sql(`UPDATE "Lease" SET bound = true WHERE "startAt" IS NOT NULL`),
    ],
    ['its task is cancelled', () => fixture.sql(`UPDATE "Task" SET "cancelRequestedAt" = now()`)],
  ])('is refused where %s', async (_, change) => {
    const { id, lease } = await startPlanned();
    expect((await late(change)).refused).toEqual([lease]);
    expect(await vmOf(id)).toMatchObject({ state: 'pending', generation: 0 });
  });

  test('is refused where another promise has come to its host, and does not delay that', async () => {
    await reserve(600, 300, 1, 1);
    const id = await queue(400, { preemptible: false }, 2);
    const plan = await planNow(deps, fixture.ledger);
    expect(plan.decision.starts).toHaveLength(1);
    const { lease, hosts } = plan.decision.starts[0]!;
    // Each host now has a promise that begins before that work would end.
    const soon = await reserve(100, 60, 2);
    const late = await fixture.ledger.$transaction((tx) => applyPlan(deps, tx, plan));
    expect([late.refused, (await leaseOf(soon)).plannedHosts]).toEqual([[lease], expect.arrayContaining(hosts)]);
    expect(await vmOf(id)).toMatchObject({ state: 'pending' });
    fixture.now += 100_000;
    const steps = await fixture.activities.stepPlan();
    expect(steps.placed).toContain(soon);
  });

  test('is made once by planners that have planned the same', async () => {
    const { id, lease } = await startPlanned();
    const plans = await Promise.all([planNow(deps, fixture.ledger), planNow(deps, fixture.ledger)]);
    const applied = [];
    for (const plan of plans) applied.push(await fixture.ledger.$transaction((tx) => applyPlan(deps, tx, plan)));
    expect(applied.map(({ refused }) => refused)).toEqual([[], [lease]]);
    expect(await vmOf(id)).toMatchObject({ state: 'reserved', generation: 1 });
  });

  test('is planned again in the same step', async () => {
    const { id } = await startPlanned();
    const close = `UPDATE "Host" SET schedulable = false WHERE id = 'host-a'`;
    expect((await changedMeanwhile(fixture, close, () => stepPlan(deps))).placed).toContain(id);
    expect(await vmOf(id)).toMatchObject({ state: 'reserved', hostId: 'host-b' });
  });
});

test('a suspension is refused where the work has ended, and where it moves', async () => {
  const work = [await queue(3600, {}, 2), await queue(3600, {}, 2)];
  for (const id of work) {
    await fixture.activities.reserveTask(id);
    for (const [state, vmState] of [['stagingIn'], ['starting', 'creating'], ['running', 'running']] as const)
      await fixture.activities.advanceTask(id, state, [], vmState);
  }
  const promise = await reserve(300, 120, 2);
  const { startAt } = await leaseOf(promise);
  for (;;) {
    const { wakeAt } = await fixture.activities.stepPlan();
    if ((await planNow({ ...deps, clock: () => Date.parse(wakeAt!) }, fixture.ledger)).decision.suspends.length > 0) {
      fixture.now = Date.parse(wakeAt!);
      break;
    }
    fixture.now = Date.parse(wakeAt!);
    expect(fixture.now).toBeLessThan(startAt!.getTime());
  }
  const [ended, moving] = work as [TaskId, TaskId];
  const leases = await Promise.all(work.map(async (id) => (await leaseOf(id)).id));
  const { refused } = await late(async () => {
    await finish(ended);
    await fixture.sql(`UPDATE "Vm" SET state = 'migrating' WHERE "taskId" = $1`, [moving]);
  });
  // With the promise, whose hosts would have become final.
  expect(refused).toEqual(expect.arrayContaining(leases));
  expect(await fixture.ledger.lease.count({ where: { suspension: { not: null } } })).toBe(0);
});

/** What a task's workflow reports at its end. */
async function finish(id: TaskId): Promise<void> {
  const vms = (await fixture.ledger.vm.findMany({ where: { taskId: id } })).map((vm) => vm.id as VmId);
  await fixture.activities.finishTask(id, outcomeOf({ state: 'cancelled', exitCode: null }), vms);
}

test('planners, requests and cancellations at once break no promise and place nothing twice', async () => {
  const request = fc.record({
    kind: fc.constantFrom('reserve', 'queue', 'queue', 'cancel' as const),
    inS: fc.integer({ min: 30, max: 900 }),
    durationS: fc.integer({ min: 30, max: 900 }),
    vcpus: fc.constantFrom(1, 2),
    nodes: fc.constantFrom(1, 2),
    preemptible: fc.boolean(),
  });
  const property = fc.asyncProperty(fc.array(request, { minLength: 6, maxLength: 14 }), async (requests) => {
    for (const table of ['Vm', 'Task', 'Lease']) await fixture.sql(`DELETE FROM "${table}"`);
    await reserve(1200, 600, 2);
    for (let i = 0; i < requests.length; i += 3) {
      const some = requests.slice(i, i + 3).map(async ({ kind, inS, durationS, vcpus, nodes, preemptible }) => {
        if (kind === 'cancel') {
          const cancelled = `SELECT id FROM "Task" WHERE state = 'queued' AND "cancelRequestedAt" IS NULL ORDER BY id LIMIT 1`;
          await fixture.sql(`UPDATE "Task" SET "cancelRequestedAt" = now() WHERE id = (${cancelled})`);
        } else if (kind === 'queue') await queue(durationS, { preemptible }, vcpus);
        else await reserve(inS, durationS, nodes, vcpus).catch((error) => expect(error).toMatchObject({ code: 'lease-refused' }));
      });
      await Promise.all([...some, stepPlan(deps), stepPlan(deps), stepPlan(deps)]);
    }
    expect(await overpromised()).toEqual([]);
    for (const { said, summed, capacity } of await usage(fixture)) {
      expect(said).toEqual(summed);
      for (const [i, used] of said.entries()) expect(used).toBeLessThanOrEqual(capacity[i]!);
    }
    expect(await fixture.sql(`SELECT id FROM "Vm" WHERE generation > 1`)).toEqual([]);
  });
  await fc.assert(property, { numRuns: isFull ? 300 : 5 });
});

/** Moments at which promises, and work that cannot be suspended, take more of a host than it has. */
async function overpromised(): Promise<unknown[]> {
  return fixture.sql(`
    WITH taken AS (
      SELECT l.id || p.n AS id, p.host, COALESCE(l."runFrom", l."startAt") AS "from",
        COALESCE(l."endAt", l."runFrom" + l."durationS" * interval '1 s') AS until, v.vcpus
      FROM "Lease" l, LATERAL (SELECT vcpus FROM "Vm" WHERE "leaseId" = l.id LIMIT 1) v, LATERAL (
        SELECT unnest(l."plannedHosts") AS host, generate_subscripts(l."plannedHosts", 1) AS n WHERE l."startAt" IS NOT NULL
        UNION ALL SELECT "hostId", node FROM "Vm" WHERE "leaseId" = l.id AND l."startAt" IS NULL AND state <> 'pending'
      ) p
      WHERE l."endedAt" IS NULL AND (l."startAt" IS NOT NULL OR NOT l.preemptible)
        AND NOT EXISTS (SELECT FROM "Task" t WHERE t."leaseId" = l.id AND t."cancelRequestedAt" IS NOT NULL)
    )
    SELECT a.host, a."from", sum(b.vcpus) FROM taken a JOIN taken b ON b.host = a.host AND b."from" <= a."from" AND b.until > a."from"
    GROUP BY a.host, a."from", a.id HAVING sum(b.vcpus) > 2`);
}
