import { beforeEach, describe, expect, it } from 'vitest';
import { changeVm } from '../../ledger/balance/change-vm.ts';
import { readBalanceSite } from '../../ledger/balance/read-balance.ts';
import { readDrainInput } from '../../ledger/drains/planner-input.ts';
import { changeHost } from '../../ledger/hosts/change-host.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import type { RuleChange } from '../../model/placement/rules.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { decideSpread } from '../../scheduler/balance/decide.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

/** Labels of hosts and groups of VMs, as placement, the planner, migrations, drains and the balancer ask about them. */

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 1);
  for (const id of ['host-a', 'host-b', 'host-c']) await fixture.activities.registerHost(hostFacts(id, roomy));
});

const label = (host: string, labels: Record<string, string>) => changeHost(fixture.ledger, host, { labels }, fixture.now);
const web = { antiAffinity: [{ group: 'web', strength: 'strict' as const }] };
const onSsd = {
  hostLabels: [{ label: 'disk', operator: 'in' as const, values: ['ssd'], strength: 'strict' as const }],
};

let names = 0;
async function order(rules: RuleChange, ownedBy = owner): Promise<VmId> {
  names += 1;
  fixture.now += 1000;
  const { now: nowMs } = fixture;
  const spec = VmRequest.parse({ name: `vm-${names}`, image: 'debian-12', ...rules });
  return fixture.ledger.$transaction((tx) => acceptVm(tx, { owner: ownedBy, order: spec, nowMs }));
}

async function start(rules: RuleChange, ownedBy = owner): Promise<VmId> {
  const id = await order(rules, ownedBy);
  const placed = await fixture.activities.reserveVm(id);
  if (!placed.placed) throw new Error(JSON.stringify(placed));
  for (const state of ['creating', 'running'] as const) await fixture.activities.setVmState(id, state);
  return id;
}

const hostOf = async (id: string) => (await fixture.ledger.vm.findUniqueOrThrow({ where: { id } })).hostId;

async function migrate(vm: VmId, to: HostId | null) {
  const request = { vm, to, mode: 'live' as const, coldFallback: false, requestedBy: owner, reason: null, nowMs: fixture.now };
  const id = await fixture.ledger.$transaction((tx) => acceptMigration(tx, request));
  return fixture.activities.reserveMigration(id as MigrationId);
}

async function drainPlan(host: string) {
  const request = {
    host,
    drain: '',
    deadlineMs: fixture.now + 3_600_000,
    strategy: 'auto',
    mode: 'auto',
    moveDisks: false,
    suspendInPlace: 'never',
    confidence: 0.99,
    nowMs: fixture.now,
  } as const;
  return planDrain(await readDrainInput(fixture.ledger, request));
}

describe('placement', () => {
  it('waits for a host with the label, and says so', async () => {
    const id = await order(onSsd);
    expect(await fixture.activities.reserveVm(id)).toMatchObject({ placed: false, refusal: { failed: { label: 3 } } });
    await label('host-b', { disk: 'ssd' });
    expect(await fixture.activities.reserveVm(id)).toMatchObject({ placed: true });
    expect(await hostOf(id)).toBe('host-b');
  });

  it('keeps members of a group apart, each owner its own', async () => {
    const hosts = new Set<string | null>();
    for (let n = 0; n < 3; n += 1) hosts.add(await hostOf(await start(web)));
    expect(hosts.size).toBe(3);
    expect(await fixture.activities.reserveVm(await order(web))).toMatchObject({
      placed: false,
      refusal: { failed: { apart: 3 } },
    });
    const bob = await addOwner(fixture, 'bob');
    expect(await hostOf(await start(web, bob))).not.toBeNull();
  });

  it('places the nodes of a task on different hosts, or on one', async () => {
    const apart = await fixture.activities.reserveTask(await accept(fixture, owner, { nodes: 3, ...web }));
    if (!apart.placed) throw new Error('there is no room');
    expect(new Set(apart.vms.map(({ host }) => host)).size).toBe(3);
    const together = { affinity: [{ group: 'cluster', strength: 'strict' }] };
    const beside = await fixture.activities.reserveTask(await accept(fixture, owner, { nodes: 3, ...together }));
    if (!beside.placed) throw new Error('there is no room');
    expect(new Set(beside.vms.map(({ host }) => host)).size).toBe(1);
  });

  it('does not hold up others while it waits for a label', async () => {
    fixture.maxOvertaken = 0;
    const waits = await order(onSsd);
    expect(await fixture.activities.reserveVm(waits)).toMatchObject({ placed: false });
    expect(await hostOf(await start({}))).not.toBeNull();
  });
});

describe('while there is a plan', () => {
  const promised = () =>
    accept(fixture, owner, {
      lease: { kind: 'reservation', startAt: new Date(fixture.now + 7_200_000).toISOString(), durationS: 600 },
    });

  it('the planner keeps to labels and groups, also of what starts in one step', async () => {
    await label('host-c', { disk: 'ssd' });
    await promised();
    const [one, two, ssd] = [await order(web), await order(web), await order(onSsd)];
    const gang = await accept(fixture, owner, { nodes: 2, antiAffinity: [{ group: 'gang' }] });
    for (let n = 0; n < 3; n += 1) await fixture.activities.stepPlan();
    expect(await hostOf(ssd)).toBe('host-c');
    expect(await hostOf(one)).not.toBeNull();
    expect(await hostOf(two)).not.toBeNull();
    expect(await hostOf(one)).not.toBe(await hostOf(two));
    const nodes = await fixture.ledger.vm.findMany({ where: { taskId: gang } });
    expect(new Set(nodes.map(({ hostId }) => hostId)).size).toBe(2);
  });
});

describe('migrations', () => {
  it('take a VM only to where its rules allow', async () => {
    await label('host-a', { disk: 'ssd' });
    await label('host-c', { disk: 'ssd' });
    const [other, vm] = [await start(onSsd), await start(onSsd)];
    const from = await hostOf(vm);
    const admitted = await migrate(vm, null);
    if (!admitted.admitted) throw new Error(admitted.reason);
    expect(admitted.route.to.id).toBe(from === 'host-a' ? 'host-c' : 'host-a');
    expect((await failure(migrate(other, 'host-b' as HostId))).message).toContain('host-b: label');
  });

  it('count a member on both of its hosts while it moves', async () => {
    const [first, second] = [await start(web), await start(web)];
    const taken = [await hostOf(first), await hostOf(second)];
    const third = ['host-a', 'host-b', 'host-c'].find((id) => !taken.includes(id))! as HostId;
    expect(await migrate(first, third)).toMatchObject({ admitted: true });
    expect((await failure(migrate(second, third))).message).toContain(`${third}: apart`);
    // It has not left its host yet.
    expect(await fixture.activities.reserveVm(await order(web))).toMatchObject({ placed: false });
  });
});

describe('a drain', () => {
  it('takes VMs to where their rules allow, and says what keeps them', async () => {
    const [first, second] = [await start(web), await start(web)];
    const [from, taken] = [(await hostOf(first))!, (await hostOf(second))!];
    const third = ['host-a', 'host-b', 'host-c'].find((id) => id !== from && id !== taken)!;
    expect((await drainPlan(from)).moves).toMatchObject([{ vm: first, to: third }]);
    await start(web);
    const { moves, blockers } = await drainPlan(from);
    expect(moves).toEqual([]);
    expect(blockers).toMatchObject([{ vm: first }]);
    expect(blockers[0]?.why).toContain(`${third}: apart`);
  });
});

describe('the balancer', () => {
  it('knows labels, rules and members', async () => {
    await label('host-a', { disk: 'ssd' });
    const [vm, other] = [await start({ ...onSsd, ...web }), await start(web)];
    const verdict = {
      asks: true,
      kind: 'processors',
      confidence: 0.5,
      expectedS: 600,
      seen: { points: 20, spikeS: 8, useLimit: 1, stressedS: 20, use: 1, steal: 0.4 },
    } as const;
    const { input } = await readBalanceSite(fixture.ledger, [{ host: 'host-a', verdict }], [], fixture.now);
    expect(input.vms).toMatchObject([{ id: vm, labelRules: onSsd.hostLabels, groupRules: [{ relation: 'apart' }] }]);
    expect(input.hosts.find(({ id }) => id === 'host-a')?.labels.get('disk')).toBe('ssd');
    expect([...input.members.values()].map((hosts) => Object.fromEntries(hosts))).toEqual([
      { 'host-a': 1, [(await hostOf(other))!]: 1 },
    ]);
    expect(decideSpread(input)).toHaveLength(1);
  });
});

describe('a change of rules', () => {
  it('holds for what is decided next, and is refused before a promise has its hosts', async () => {
    const first = await start({});
    await changeVm(fixture.ledger, owner, first, web);
    const second = await start(web);
    expect(await hostOf(second)).not.toBe(await hostOf(first));
    await changeVm(fixture.ledger, owner, first, { antiAffinity: [] });
    const row = await fixture.ledger.vm.findUniqueOrThrow({ where: { id: first } });
    expect([row.rules, row.groups]).toEqual([null, []]);
    const startAt = new Date(fixture.now + 7_200_000).toISOString();
    const spec = VmRequest.parse({ name: 'later', image: 'debian-12', lease: { kind: 'reservation', startAt, durationS: 600 } });
    const later = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order: spec, nowMs: fixture.now }));
    expect((await failure(changeVm(fixture.ledger, owner, later, web))).code).toBe('conflict');
    expect(VmRequest.safeParse({ ...spec, ...web }).success).toBe(false);
  });
});
