import { beforeEach, describe, expect, it } from 'vitest';
import { releaseExpiredHolds } from '../../ledger/balance/holds.ts';
import { readBalancePlan } from '../../ledger/balance/plan.ts';
import { findDecision, removeOldDecisions } from '../../ledger/balance/read-decisions.ts';
import { changeBalancer } from '../../ledger/load/balancer.ts';
import { acceptLoadBatch } from '../../ledger/load/record-batch.ts';
import { type HostId, newId, type VmId } from '../../model/ids.ts';
import { type BalancerMode, offerS } from '../../model/load/balancer.ts';
import { hostLoadFields, vmLoadFields } from '../../model/load/load.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import { addImage, addOwner, empty, useLedger } from './ledger-fixture.ts';

/** The help protocol on the ledger: offers are holds of capacity, the best is taken as a migration, none leaks. */

const fixture = useLedger();
const nowMs = Date.parse('2026-11-30T12:00:00Z');
const verdict: WatchVerdict = {
  asks: true,
  kind: 'processors',
  confidence: 0.5,
  expectedS: 600,
  seen: { points: 20, spikeS: 8, useLimit: 1, stressedS: 20, use: 1, steal: 0.4 },
};
let owner: string;
let image: string;
let addresses = 10;
let vms: VmId[];

/** The VMs of host a want five of its four processors; b and c have four and are idle, b the more so. */
beforeEach(async () => {
  await empty(fixture);
  fixture.now = nowMs;
  owner = await addOwner(fixture);
  image = await addImage(fixture);
  addresses = 10;
  await fixture.sql(
    `INSERT INTO "Network" (id, "ownerId", vni, cidr, gateway) VALUES ('net_1', $1, 5000, '10.128.0.0/22', '10.128.0.1')`,
    [owner],
  );
  for (const [at, host] of ['a', 'b', 'c'].entries())
    await fixture.sql(
      `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
       VALUES ($1, $2, 'site', 'up', 16, 16384, 65536, 'c', 'kvm', 'q', 'b', now())`,
      [host, `192.0.2.${at + 1}`],
    );
  vms = [];
  for (let n = 0; n < 4; n += 1) vms.push(await addVm('a'));
  const quiet = await addVm('c');
  await load('a', { [vms[0]!]: [2, 0.2], [vms[1]!]: [0.8, 0.2], [vms[2]!]: [0.72, 0.2], [vms[3]!]: [0.48, 0.2] }, [1, 0.2]);
  await load('b', {}, [0, 0]);
  await load('c', { [quiet]: [0.1, 0] }, [0.03, 0]);
  await setMode('auto');
});

const setMode = (mode: BalancerMode) => changeBalancer(fixture.ledger, { mode });

async function addVm(host: string): Promise<VmId> {
  const id = newId('vm');
  addresses += 1;
  await fixture.sql(
    `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "hostId", "homeId", "startedAt", "imageId", address, mac)
     VALUES ($1, $2, $1, 3, 1024, 512, 'running', $3, $3, $4, $5, $6, $7)`,
    [id, owner, host, new Date(nowMs - 7_200_000), image, `10.128.0.${addresses}`, `52:54:00:00:00:${addresses}`],
  );
  return id;
}

async function load(
  host: string,
  of: Record<string, [cpus: number, steal: number]>,
  [use, steal]: [number, number],
  atMs = nowMs,
) {
  const row = <F extends string>(fields: readonly F[], values: Partial<Record<F, number>>) =>
    fields.map((field) => values[field] ?? 0);
  await acceptLoadBatch(
    fixture.ledger,
    host,
    {
      id: `${host}-${atMs}`,
      processors: 4,
      memoryMiB: 16_384,
      diskMiB: 65_536,
      processorUse: [],
      learned: Object.fromEntries(
        Object.entries(of).map(([vm, [cpus, waits]]) => [vm, [cpus / (1 - waits), 0.04, 7200] as [number, number, number]]),
      ),
      samples: [
        {
          agoS: 0,
          durationS: 10,
          host: row(hostLoadFields, { use, mostUse: use, steal }),
          vms: Object.fromEntries(
            Object.entries(of).map(([vm, [cpus, waits]]) => [vm, row(vmLoadFields, { cpus, mostCpus: cpus, steal: waits })]),
          ),
        },
      ],
    },
    atMs,
  );
}

const a = 'a' as HostId;
const used = async () =>
  Object.fromEntries(
    (await fixture.sql<{ id: string; n: number }>('SELECT id, "usedVcpus" AS n FROM "Host"')).map(({ id, n }) => [id, n]),
  );
const holds = async () =>
  (
    await fixture.sql<{ host: string; taken: boolean }>(
      `SELECT "hostId" AS host, "migrationId" IS NOT NULL AS taken FROM "MoveHold" ORDER BY rank, 1`,
    )
  ).map(({ host, taken }) => `${host}${taken ? ' taken' : ''}`);
const events = async () =>
  (
    await fixture.sql<{ type: string; data: { why: string | null; moves: unknown[] } }>(
      `SELECT type, data FROM "Event" WHERE type LIKE 'berth.host.%' ORDER BY seq`,
    )
  ).map(({ type, data }) => [type, data.why, data.moves.length]);

describe('a host that asks for help', () => {
  it('is offered capacity, which is held for a minute; the best offer becomes a migration, and the others are released', async () => {
    const { activities } = fixture;
    const before = await used();
    expect(await activities.openHelp('d1', a, verdict)).toMatchObject({ offered: true });
    const decision = await findDecision(fixture.ledger, 'd1');
    const { outcome } = decision.decision as unknown as { outcome: { moves: { vm: string; to: string }[] } };
    const [{ vm, to }] = outcome.moves as [{ vm: string; to: string }];
    expect(to).toBe('b');
    expect(decision).toMatchObject({ state: 'open', mode: 'auto', starvedCpus: expect.closeTo(1, 2) });
    expect(await holds()).toEqual(['b', 'c']);
    expect(await used()).toEqual({ a: before.a, b: before.b! + 3, c: before.c! + 3 });

    const moves = await activities.takeOffers('d1');
    expect(moves).toEqual([{ migration: expect.stringMatching(/^migration_/), vm, generation: 1 }]);
    expect(await holds()).toEqual(['b taken']);
    expect(await used()).toEqual({ ...before, b: before.b! + 3 });
    // Its migration takes over what was held, once.
    expect(await activities.reserveMigration(moves[0]!.migration)).toMatchObject({ admitted: true });
    expect(await holds()).toEqual([]);
    expect(await used()).toEqual({ ...before, b: before.b! + 3 });

    expect(await activities.hasSettled('d1')).toBe(false);
    await activities.commitMigration(moves[0]!.migration, { downtimeMs: 100, bytes: 1, phases: [] });
    expect(await activities.hasSettled('d1')).toBe(true);
    fixture.now += 90_000;
    await load('a', { [vms[1]!]: [1.2, 0.2] }, [1, 0.2], fixture.now);
    await load('b', { [vm]: [2, 0] }, [0.5, 0], fixture.now);
    await activities.closeHelp('d1', null);
    const closed = await findDecision(fixture.ledger, 'd1');
    expect(closed).toMatchObject({ state: 'ended', problem: null });
    // One processor starved, and 0.3 does.
    expect(closed.moves).toMatchObject([{ vmId: vm, toId: 'b', achievedCpus: expect.closeTo(0.7, 2) }]);
    expect(await events()).toContainEqual(['berth.host.relieved', null, 1]);
  });

  it('has one decision, one migration and one end, however often its steps are repeated, also at once', async () => {
    const { activities } = fixture;
    const answers = [await activities.openHelp('d1', a, verdict), await activities.openHelp('d1', a, verdict)];
    expect(answers[0]).toEqual(answers[1]);
    const taken = await Promise.all([1, 2, 3].map(() => activities.takeOffers('d1')));
    expect(new Set(taken.map((moves) => JSON.stringify(moves))).size).toBe(1);
    expect(await fixture.ledger.migration.count()).toBe(1);
    await activities.closeHelp('d1', 'the first end');
    await activities.closeHelp('d1', null);
    expect(await findDecision(fixture.ledger, 'd1')).toMatchObject({ problem: 'the first end' });
  });

  it('is offered the next host where the capacity of the first is gone, and nothing where the VM has gone', async () => {
    const { activities } = fixture;
    await activities.openHelp('d1', a, verdict);
    await fixture.sql(`DELETE FROM "MoveHold" WHERE "hostId" = 'b'`);
    expect(await activities.takeOffers('d1')).toHaveLength(1);
    expect(await fixture.sql('SELECT "toId" FROM "Migration"')).toEqual([{ toId: 'c' }]);
    await fixture.sql(`DELETE FROM "MoveHold"; DELETE FROM "Migration"; DELETE FROM "BalanceMove"`);
    await activities.openHelp('d2', a, verdict);
    await fixture.sql(`UPDATE "Vm" SET pinned = true`);
    expect(await activities.takeOffers('d2')).toEqual([]);
    expect(await findDecision(fixture.ledger, 'd2')).toMatchObject({
      state: 'ended',
      problem: 'no offer could be taken any more',
    });
    expect(await holds()).toEqual([]);
  });

  it('leaves no hold when its workflow is ended from outside', async () => {
    const before = await used();
    await fixture.activities.openHelp('d1', a, verdict);
    expect(await releaseExpiredHolds(fixture.ledger, nowMs + offerS * 1000 - 1)).toBe(0);
    expect(await releaseExpiredHolds(fixture.ledger, nowMs + offerS * 1000 + 1)).toBe(2);
    expect(await used()).toEqual(before);
    expect(await fixture.activities.takeOffers('d1')).toEqual([]);
  });

  it('is told no with the reasons: a VM that moved cools down, a pinned one stays, a host that is left out offers nothing', async () => {
    await fixture.sql(`UPDATE "Vm" SET pinned = true WHERE id = $1`, [vms[0]]);
    await fixture.sql(`UPDATE "Host" SET balance = false WHERE id IN ('b', 'c')`);
    expect(await fixture.activities.openHelp('d1', a, verdict)).toMatchObject({ offered: false });
    const { decision } = await findDecision(fixture.ledger, 'd1');
    expect(decision).toMatchObject({
      stayed: { pinned: 1 },
      refused: { leftOut: expect.any(Number) },
      outcome: { why: 'noTarget' },
    });
    expect(await events()).toEqual([['berth.host.noHelp', 'noTarget', 0]]);
  });

  it('is not answered while the balancer is off, and only advised where it is to advise', async () => {
    await setMode('off');
    expect(await fixture.activities.openHelp('d0', a, verdict)).toEqual({ offered: false, summary: 'the balancer is off' });
    expect(await fixture.ledger.balanceDecision.count()).toBe(0);
    await setMode('advise');
    expect(await fixture.activities.openHelp('d1', a, verdict)).toMatchObject({
      offered: false,
      summary: expect.stringMatching(/^advised: /),
    });
    expect(await fixture.activities.takeOffers('d1')).toEqual([]);
    expect([await holds(), await fixture.ledger.migration.count()]).toEqual([[], 0]);
    expect(await events()).toEqual([['berth.host.reliefAdvised', null, 1]]);
  });
});

it('a plan of the whole site decides as a host alone would, and changes nothing', async () => {
  const [planned] = await readBalancePlan(fixture.ledger, 600, nowMs);
  await fixture.activities.openHelp('d1', a, verdict);
  const { decision } = await findDecision(fixture.ledger, 'd1');
  const { outcome } = decision as unknown as { outcome: object };
  expect(planned?.outcome).toEqual(outcome);
  expect(await fixture.ledger.balanceDecision.count()).toBe(1);
});

it('decisions go after thirty days, with their moves', async () => {
  await fixture.activities.openHelp('d1', a, verdict);
  await fixture.activities.takeOffers('d1');
  const later = nowMs + 31 * 86_400_000;
  expect(await removeOldDecisions(fixture.ledger, later)).toBe(0);
  await fixture.activities.closeHelp('d1', null);
  expect(await removeOldDecisions(fixture.ledger, nowMs + 29 * 86_400_000)).toBe(0);
  expect(await removeOldDecisions(fixture.ledger, later)).toBe(1);
  expect(await fixture.ledger.balanceMove.count()).toBe(0);
});
