import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { stillFits } from '../../ledger/leases/apply-promise.ts';
import { acceptTask } from '../../ledger/tasks/accept-task.ts';
import { requestLimits } from '../../ledger/transaction.ts';
import { TaskSpec } from '../../model/task.ts';
import { isFull } from '../tier.ts';
import { accept, addImage, addOwner, changedMeanwhile, empty, hostFacts, useLedger } from './ledger-fixture.ts';

/**
 * Promises are planned before the placement lock is taken, and checked under it. What is planned from a state that has
 * changed since is refused by the check, and planned again.
 */

const fixture = useLedger();
let owner: string;
const size = { vcpus: 4, memoryMiB: 4096, diskMiB: 10_000 };
const hosts = ['host-a', 'host-b', 'host-c'];

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 1);
  for (const id of hosts) await fixture.activities.registerHost(hostFacts(id, size));
});

interface Wish {
  inS: number;
  durationS: number;
  nodes: number;
  vcpus: number;
}

const spec = ({ inS, durationS, nodes, vcpus }: Wish) =>
  TaskSpec.parse({
    image: 'debian-12',
    command: ['true'],
    nodes,
    resources: { vcpus, memoryMiB: 512, diskMiB: 16 },
    lease: { kind: 'reservation', startAt: new Date(fixture.now + inS * 1000).toISOString(), durationS },
  });

/** As the API accepts it; whether it was promised. */
async function request(wish: Wish): Promise<boolean> {
  try {
    const [parsed, nowMs] = [spec(wish), fixture.now];
    await fixture.ledger.$transaction((tx) => acceptTask(tx, { owner, spec: parsed, nowMs }), requestLimits);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'lease-refused' });
    return false;
  }
}

/** Moments at which promises take more of a host than it has. */
async function overpromised(): Promise<unknown[]> {
  return fixture.sql(`
    WITH taken AS (
      SELECT l.id || p.n AS id, p.host, l."startAt" AS "from", l."endAt" AS until, v.vcpus
      FROM "Lease" l, unnest(l."plannedHosts") WITH ORDINALITY AS p(host, n), LATERAL (SELECT vcpus FROM "Vm" WHERE "leaseId" = l.id LIMIT 1) v
      WHERE l."startAt" IS NOT NULL AND l."endedAt" IS NULL
    )
    SELECT a.host, a."from", sum(b.vcpus) FROM taken a JOIN taken b ON b.host = a.host AND b."from" <= a."from" AND b.until > a."from"
    GROUP BY a.host, a."from", a.id HAVING sum(b.vcpus) > 4`);
}

const wish: fc.Arbitrary<Wish> = fc.record({
  inS: fc.integer({ min: 60, max: 3000 }),
  durationS: fc.integer({ min: 60, max: 3000 }),
  nodes: fc.integer({ min: 1, max: 3 }),
  vcpus: fc.integer({ min: 1, max: 4 }),
});

test('at once never promise a host twice', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(wish, { minLength: 8, maxLength: 16 }), async (wishes) => {
      for (const table of ['Vm', 'Task', 'Lease']) await fixture.sql(`DELETE FROM "${table}"`);
      const accepted = await Promise.all(wishes.map(request));
      expect(accepted).toContain(true);
      expect(await overpromised()).toEqual([]);
      expect(await fixture.ledger.lease.count()).toBe(accepted.filter(Boolean).length);
    }),
    { numRuns: isFull ? 400 : 6 },
  );
});

describe('a plan that is stale when it is applied', () => {
  const whole: Wish = { inS: 600, durationS: 600, nodes: 1, vcpus: 4 };
  const planned = async () =>
    (await fixture.ledger.lease.findMany({ select: { plannedHosts: true } })).map((row) => row.plannedHosts);

  test('goes to another host where its own was closed', async () => {
    expect(
      await changedMeanwhile(fixture, `UPDATE "Host" SET schedulable = false WHERE id = 'host-a'`, () => request(whole)),
    ).toBe(true);
    expect(await planned()).toEqual([['host-b']]);
  });

  test('is refused where no host is left', async () => {
    expect(await changedMeanwhile(fixture, `UPDATE "Host" SET schedulable = false`, () => request(whole))).toBe(false);
    expect(await planned()).toEqual([]);
  });

  test('yields to a promise that was written first', async () => {
    expect(await request(whole)).toBe(true);
    const [[first]] = (await planned()) as [[string]];
    const others = hosts.filter((id) => id !== first);
    const copy = `INSERT INTO "Lease" (id, "ownerId", kind, "durationS", "startAt", "endAt", "plannedHosts")
      SELECT 'other', "ownerId", kind, "durationS", "startAt", "endAt", ARRAY['${others[0]}'] FROM "Lease";
      INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId") SELECT 'other', "ownerId", name, spec, state, 'other' FROM "Task";
      INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "taskId", node, "leaseId")
      SELECT 'other', "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, 'other', 0, 'other' FROM "Vm"`;
    expect(await changedMeanwhile(fixture, copy, () => request(whole))).toBe(true);
    expect((await planned()).flat().sort()).toEqual(hosts);
    expect(await overpromised()).toEqual([]);
  });
});

test('the check refuses each change of what a plan relies on', async () => {
  const promise = {
    hosts: ['host-a', 'host-a'],
    each: { vcpus: 2, memoryMiB: 512, diskMiB: 17 },
    fromMs: fixture.now + 600_000,
    untilMs: fixture.now + 1_200_000,
  };
  const fits = () => fixture.ledger.$transaction((tx) => stillFits(tx, promise));
  expect(await fits()).toBe(true);
  const iso = (ms: number) => `'${new Date(ms).toISOString()}'`;
  const changes = [
    `schedulable = false`,
    `"clockOff" = true`,
    `"removedAt" = now()`,
    `state = 'unknown'`,
    `"usedVcpus" = 1`,
    `"usedMemoryMiB" = 3073`,
    `"usedDiskMiB" = 9967`,
    `vcpus = 3`,
    `"vacantFrom" = ${iso(fixture.now + 1_000_000)}, "vacantUntil" = ${iso(fixture.now + 2_000_000)}`,
  ];
  for (const change of changes) {
    await fixture.sql(`UPDATE "Host" SET ${change} WHERE id = 'host-a'`);
    expect(await fits(), change).toBe(false);
    await fixture.sql(
      `UPDATE "Host" SET schedulable = true, "clockOff" = false, "removedAt" = NULL, state = 'up', vcpus = ${size.vcpus}, "usedVcpus" = 0, "usedMemoryMiB" = 0, "usedDiskMiB" = 0,
         "vacantFrom" = NULL, "vacantUntil" = NULL WHERE id = 'host-a'`,
    );
  }
  expect(await fits()).toBe(true);
  await accept(fixture, owner, {
    nodes: 1,
    resources: { vcpus: 1, memoryMiB: 256, diskMiB: 16 },
    lease: { kind: 'reservation', startAt: new Date(promise.fromMs + 60_000).toISOString(), durationS: 60 },
  });
  expect(await fits()).toBe(false);
});

test('what takes long to plan under the lock may take as long as its request', async () => {
  const tooLarge = { owner, spec: spec({ inS: 600, durationS: 600, nodes: 3, vcpus: 4 }), nowMs: fixture.now };
  expect(await request({ inS: 600, durationS: 600, nodes: 1, vcpus: 1 })).toBe(true);
  await fixture.ledger.$transaction(async (tx) => {
    const idle = async () =>
      (await tx.$queryRaw<{ limit: string }[]>`SELECT current_setting('idle_in_transaction_session_timeout') AS limit`)[0];
    expect(await idle()).toEqual({ limit: '5s' });
    await expect(acceptTask(tx, tooLarge)).rejects.toMatchObject({ code: 'lease-refused' });
    expect(await idle()).toEqual({ limit: '30s' });
  }, requestLimits);
});
