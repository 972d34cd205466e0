import { beforeEach, describe, expect, it } from 'vitest';
import type { MigrationRoute } from '../../contracts/ledger.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { VmMigratedData, VmRehomedData, VmSilentData } from '../../model/events.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { type MigrationId, migrationTransitions } from '../../model/migration.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, outcomeOf, roomy, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
let image: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  image = await addImage(fixture);
  await fixture.activities.registerHost(hostFacts('a', roomy, { images: [image] }));
});

const arrive = (id: string, more = {}, room = roomy) =>
  fixture.activities.registerHost(hostFacts(id, room, { images: [image], ...more }));

/** A task whose command runs on host a. */
async function running(spec: Record<string, unknown> = {}): Promise<{ task: TaskId; vm: VmId }> {
  const task = await accept(fixture, owner, spec);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('not placed');
  await fixture.activities.advanceTask(task, 'stagingIn', []);
  await fixture.activities.advanceTask(task, 'starting', [], 'creating');
  await fixture.activities.advanceTask(task, 'running', [], 'running');
  return { task, vm: placement.vms[0]!.id };
}

type Order = { mode?: 'live' | 'cold' | 'disks'; moveDisk?: boolean; coldFallback?: boolean; convergeWithinS?: number };

function ask(vm: VmId, to: string | null = null, more: Order = {}): Promise<MigrationId> {
  fixture.now += 1000;
  const order = { coldFallback: false, ...more, vm, to, requestedBy: 'alice', reason: null, nowMs: fixture.now };
  return fixture.ledger.$transaction((tx) => acceptMigration(tx, order));
}

async function begin(vm: VmId, to: string | null = null, more: Order = {}) {
  const id = await ask(vm, to, more);
  const turn = await fixture.activities.reserveMigration(id);
  if (!turn.admitted) throw new Error(turn.reason);
  return { id, place: turn.route satisfies MigrationRoute };
}

const vmRow = (id: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id } });
const used = async () =>
  Object.fromEntries((await fixture.ledger.host.findMany()).map((host) => [host.id, [host.usedVcpus, host.usedMemoryMiB]]));
const result = { downtimeMs: 120, bytes: 4096, phases: [] };
const failed = { ...result, downtimeMs: null, error: { code: 'migration-aborted' as const, message: 'enough' }, lost: false };

describe('a migration that succeeds', () => {
  it('takes capacity on both hosts while it is under way, and on one before and after', async () => {
    const { vm } = await running();
    await arrive('b');
    expect(await used()).toEqual({ a: [1, 256], b: [0, 0] });
    const { id } = await begin(vm);
    expect(await used()).toEqual({ a: [1, 256], b: [1, 256] });
    await fixture.activities.commitMigration(id, result);
    expect(await used()).toEqual({ a: [0, 0], b: [1, 256] });
  });

  it('moves the VM, keeps its home, and writes one event, also when its steps are repeated', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id, place } = await begin(vm, 'b');
    expect(place).toMatchObject({ from: { id: 'a' }, to: { id: 'b' }, home: { id: 'a' }, sourceGeneration: 1 });
    expect(place.vm).toMatchObject({ host: 'b', home: 'a', generation: 2 });
    expect(await fixture.activities.reserveMigration(id)).toMatchObject({ admitted: true });
    await fixture.activities.commitMigration(id, result);
    await fixture.activities.commitMigration(id, result);
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', homeId: 'a', generation: 2, state: 'running' });
    const events = await fixture.ledger.event.findMany({ where: { type: 'berth.vm.migrated' } });
    expect(events).toHaveLength(1);
    expect(VmMigratedData.parse(events[0]!.data)).toMatchObject({ vm, from: { host: 'a' }, to: { host: 'b' }, downtimeMs: 120 });
    expect((await failure(fixture.activities.rollBackMigration(id, failed))).message).toContain('was committed');
  });

  it('writes one event of a silent guest, and none before the commit', async () => {
    const { vm } = await running();
    await arrive('b', { provider: 'another' });
    const { id } = await begin(vm);
    await fixture.activities.recordMigratedGuest(id, 'silent');
    const guest = async () => (await fixture.ledger.migration.findUniqueOrThrow({ where: { id } })).guest;
    expect(await guest()).toBeNull();
    await fixture.activities.commitMigration(id, result);
    await fixture.activities.recordMigratedGuest(id, 'silent');
    await fixture.activities.recordMigratedGuest(id, 'silent');
    expect(await guest()).toBe('silent');
    const events = await fixture.ledger.event.findMany({ where: { type: 'berth.vm.silent' } });
    expect(events.map(({ data }) => VmSilentData.parse(data))).toMatchObject([
      { vm, migration: id, host: 'b', provider: 'another', generation: 2 },
    ]);
  });

  it('splits the usage of the VM between the hosts, to the millisecond, without a gap', async () => {
    const { task, vm } = await running({ resources: { vcpus: 2, memoryMiB: 256, diskMiB: 64 } });
    const start = new Date(fixture.now).toISOString();
    await arrive('b', { provider: 'another' });
    const { id } = await begin(vm);
    fixture.now += 10_500;
    await fixture.activities.commitMigration(id, result);
    fixture.now += 4_250;
    const end = new Date(fixture.now).toISOString();
    const outcome = outcomeOf({ state: 'cancelled', exitCode: null, vms: [{ id: vm, startedAt: start, endedAt: end }] });
    await fixture.activities.finishTask(task, outcome, []);
    const event = await fixture.ledger.event.findFirstOrThrow({ where: { type: 'berth.task.cancelled' } });
    const { usage, vcpuSeconds } = event.data as unknown as { usage: Record<string, unknown>[]; vcpuSeconds: number };
    expect(usage.map((part) => [part.host, part.provider, part.vcpuSeconds])).toEqual([
      ['a', 'site', 2 * 11.5],
      ['b', 'another', 2 * 4.25],
    ]);
    expect(vcpuSeconds).toBe((2 * (Date.parse(end) - Date.parse(start))) / 1000);
  });

  it('does not stop a removal that has begun meanwhile, on the host where the VM is', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    await fixture.activities.setVmState(vm, 'removing');
    await fixture.activities.commitMigration(id, result);
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', state: 'removing' });
    expect(await used()).toEqual({ a: [0, 0], b: [1, 256] });
  });
});

describe('a migration that is rolled back', () => {
  it('frees the capacity, and leaves the VM where it was with a new generation', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    await fixture.activities.rollBackMigration(id, failed);
    await fixture.activities.rollBackMigration(id, failed);
    expect(await used()).toEqual({ a: [1, 256], b: [0, 0] });
    expect(await vmRow(vm)).toMatchObject({ hostId: 'a', generation: 2, state: 'running' });
    expect(await fixture.ledger.event.count({ where: { type: 'berth.vm.migrated' } })).toBe(0);
    expect((await begin(vm)).place.vm.generation).toBe(3);
    expect((await failure(fixture.activities.commitMigration(id, result))).message).toContain('is rolledBack');
  });

  it('reports a VM that neither host has as stopped', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    await fixture.activities.rollBackMigration(id, { ...failed, lost: true });
    expect(await vmRow(vm)).toMatchObject({ hostId: 'a', state: 'stopped' });
  });

  it('keeps its capacity on both hosts while it is stuck, and may end either way', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    await fixture.activities.markMigrationStuck(id, { code: 'ambiguous', message: 'b does not answer' });
    expect(await used()).toEqual({ a: [1, 256], b: [1, 256] });
    expect(await vmRow(vm)).toMatchObject({ state: 'stuck', problem: { code: 'ambiguous' } });
    await fixture.activities.commitMigration(id, result);
    expect(await vmRow(vm)).toMatchObject({ state: 'running', problem: null });
  });
});

describe('disks that follow', () => {
  const diskAt = async () =>
    Object.fromEntries((await fixture.ledger.host.findMany()).map((host) => [host.id, host.usedDiskMiB]));
  const end = { error: null, bytes: 4096, phases: [] };

  it('have space on both hosts from the beginning, and in the end on their new home alone', async () => {
    const { vm } = await running();
    await arrive('b');
    const { a: taken } = await diskAt();
    const { id } = await begin(vm, 'b', { moveDisk: true });
    expect(await diskAt()).toEqual({ a: taken, b: taken });
    await fixture.activities.commitMigration(id, result);
    expect(await diskAt()).toEqual({ a: taken, b: taken });
    expect(await fixture.activities.loadVmLocation(vm)).toMatchObject({
      host: 'b',
      home: 'a',
      migrationWorkflowId: `migrate-${vm}-2`,
    });
    await fixture.activities.finishDiskMove(id, end);
    await fixture.activities.finishDiskMove(id, end);
    expect(await diskAt()).toEqual({ a: 0, b: taken });
    expect(await fixture.activities.loadVmLocation(vm)).toMatchObject({ host: 'b', home: 'b', migrationWorkflowId: null });
    const events = await fixture.ledger.event.findMany({ where: { type: 'berth.vm.rehomed' } });
    expect(events.map(({ data }) => VmRehomedData.parse(data))).toMatchObject([
      { vm, migration: id, from: { host: 'a' }, home: 'b', host: 'b', bytes: 4096 },
    ]);
    expect(await fixture.ledger.migration.findUniqueOrThrow({ where: { id } })).toMatchObject({
      state: 'succeeded',
      error: null,
    });
  });

  it('remain on their home when the copy fails, and the migration has the error', async () => {
    const { vm } = await running();
    await arrive('b');
    const { a: taken } = await diskAt();
    const { id } = await begin(vm, 'b', { moveDisk: true });
    expect((await failure(fixture.activities.finishDiskMove(id, end))).code).toBe('conflict');
    await fixture.activities.commitMigration(id, result);
    await fixture.activities.finishDiskMove(id, { ...end, error: { code: 'disk-full', message: 'no room' } });
    expect(await diskAt()).toEqual({ a: taken, b: 0 });
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', homeId: 'a', state: 'running' });
    expect(await fixture.ledger.event.count({ where: { type: 'berth.vm.rehomed' } })).toBe(0);
  });

  it('prevent another migration of their VM before they have followed', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { moveDisk: true });
    await fixture.activities.commitMigration(id, result);
    expect((await failure(ask(vm))).code).toBe('conflict');
    await fixture.activities.finishDiskMove(id, end);
    await ask(vm);
  });

  it('exclude targets without space for them', async () => {
    const { vm } = await running();
    await arrive('b', {}, { ...roomy, diskMiB: 8 });
    expect((await failure(begin(vm, 'b', { moveDisk: true }))).message).toContain('b: disk');
  });
});

describe('disks that move alone', () => {
  const diskAt = async () =>
    Object.fromEntries((await fixture.ledger.host.findMany()).map((host) => [host.id, host.usedDiskMiB]));
  const end = { error: null, bytes: 4096, phases: [] };
  /** A VM that runs on b, with its disks on a. */
  const away = async (): Promise<VmId> => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b');
    await fixture.activities.commitMigration(id, result);
    return vm;
  };
  const stored = (id: MigrationId) => fixture.ledger.migration.findUniqueOrThrow({ where: { id } });

  it('take space on both hosts while they are under way, and make the host where the VM runs its home', async () => {
    const vm = await away();
    const { a: taken } = await diskAt();
    const before = await used();
    const { id, place } = await begin(vm, null, { mode: 'disks' });
    expect(place).toMatchObject({ from: { id: 'a' }, to: { id: 'b' }, home: { id: 'a' }, vm: { host: 'b', generation: 3 } });
    expect(await fixture.activities.reserveMigration(id)).toMatchObject({ admitted: true, route: { home: { id: 'a' } } });
    expect(await diskAt()).toEqual({ a: taken, b: taken });
    expect(await fixture.activities.loadVmLocation(vm)).toMatchObject({
      host: 'b',
      home: 'a',
      migrationWorkflowId: `migrate-${vm}-3`,
    });
    await fixture.activities.finishDiskMove(id, end);
    await fixture.activities.finishDiskMove(id, end);
    expect(await diskAt()).toEqual({ a: 0, b: taken });
    expect(await used()).toEqual(before);
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', homeId: 'b', generation: 3, state: 'running' });
    expect(await stored(id)).toMatchObject({ state: 'succeeded', bytes: 4096n, error: null });
    expect(await fixture.ledger.event.count({ where: { type: 'berth.vm.migrated' } })).toBe(1);
    expect(await fixture.ledger.event.count({ where: { type: 'berth.vm.rehomed' } })).toBe(1);
  });

  it('that failed are where they were, and the space for them is free again', async () => {
    const vm = await away();
    const { a: taken } = await diskAt();
    const { id } = await begin(vm, 'b', { mode: 'disks' });
    const failedEnd = { ...end, error: { code: 'disk-full' as const, message: 'no room' } };
    await fixture.activities.finishDiskMove(id, failedEnd);
    await fixture.activities.finishDiskMove(id, failedEnd);
    expect(await diskAt()).toEqual({ a: taken, b: 0 });
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', homeId: 'a', generation: 3, state: 'running' });
    expect(await stored(id)).toMatchObject({ state: 'rolledBack', committedAt: null });
    await begin(vm, null, { mode: 'disks' });
  });

  it('are refused where there is nothing to move, or another target is requested, or has no space', async () => {
    const { vm } = await running();
    await arrive('b');
    expect((await failure(ask(vm, null, { mode: 'disks' }))).message).toContain('on a already');
    const { id } = await begin(vm, 'b');
    await fixture.activities.commitMigration(id, result);
    expect((await failure(ask(vm, 'a', { mode: 'disks' }))).message).toContain('not to a');
    await fixture.ledger.host.update({ where: { id: 'b' }, data: { diskMiB: 8 } });
    const requested = await ask(vm, null, { mode: 'disks' });
    expect((await failure(fixture.activities.reserveMigration(requested))).message).toContain('b: disk');
    await fixture.activities.rollBackMigration(requested, failed);
    expect(await stored(requested)).toMatchObject({ state: 'rolledBack' });
  });

  it('count among the migrations of both hosts, which bounds the load of their networks', async () => {
    const vms: VmId[] = [];
    for (let count = 0; count < 3; count += 1) vms.push((await running()).vm);
    await arrive('b');
    for (const vm of vms) await fixture.activities.commitMigration((await begin(vm, 'b')).id, result);
    const first = await begin(vms[0]!, null, { mode: 'disks' });
    await begin(vms[1]!, null, { mode: 'disks' });
    const third = await ask(vms[2]!, null, { mode: 'disks' });
    expect(await fixture.activities.reserveMigration(third)).toMatchObject({ admitted: false });
    await fixture.activities.finishDiskMove(first.id, end);
    expect(await fixture.activities.reserveMigration(third)).toMatchObject({ admitted: true });
  });
});

describe('a cold migration', () => {
  const taken = async () =>
    Object.fromEntries(
      (await fixture.ledger.host.findMany()).map((host) => [host.id, [host.usedVcpus, host.usedMemoryMiB, host.usedDiskMiB]]),
    );
  const suspend = async (vm: VmId) => {
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.commitSuspension(vm);
  };

  it('of a VM that runs takes space for its memory on the target’s disk as well, until it has arrived', async () => {
    const { vm } = await running();
    await arrive('b');
    const { a } = await taken();
    const { id, place } = await begin(vm, 'b', { mode: 'cold', moveDisk: true });
    expect(place.suspended).toBe(false);
    expect(await taken()).toEqual({ a, b: [a![0], a![1], a![2]! + 256] });
    await fixture.activities.commitMigration(id, result);
    expect(await taken()).toEqual({ a: [0, 0, 0], b: a });
    expect(await vmRow(vm)).toMatchObject({ state: 'running', hostId: 'b', homeId: 'b' });
    expect(await fixture.ledger.migration.findUniqueOrThrow({ where: { id } })).toMatchObject({ state: 'succeeded', diskMiB: 0 });
  });

  it('of one that is suspended takes neither processors nor memory anywhere, and leaves it suspended', async () => {
    const { vm } = await running();
    await suspend(vm);
    await arrive('b');
    const { a } = await taken();
    const { id, place } = await begin(vm, 'b', { mode: 'cold', moveDisk: true });
    expect(place.suspended).toBe(true);
    expect(await taken()).toEqual({ a, b: [0, 0, a![2]] });
    await fixture.activities.commitMigration(id, result);
    expect(await taken()).toEqual({ a: [0, 0, 0], b: a });
    expect(await vmRow(vm)).toMatchObject({ state: 'suspended', hostId: 'b', homeId: 'b' });
  });

  it('that is rolled back leaves the VM as it was: running or suspended', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { mode: 'cold' });
    await fixture.activities.rollBackMigration(id, failed);
    expect(await vmRow(vm)).toMatchObject({ state: 'running', hostId: 'a', homeId: 'a' });
    await suspend(vm);
    const again = await begin(vm, 'b', { mode: 'cold' });
    await fixture.activities.rollBackMigration(again.id, failed);
    expect(await vmRow(vm)).toMatchObject({ state: 'suspended', hostId: 'a', homeId: 'a' });
  });
});

describe('a live migration that may fall back to cold', () => {
  it('has space for its memory as a file, and is cold after the fallback', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { coldFallback: true });
    const held = async () => (await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'b' } })).usedDiskMiB;
    expect(await held()).toBe(256);
    await fixture.activities.fallBackToCold(id);
    await fixture.activities.fallBackToCold(id);
    await fixture.activities.commitMigration(id, result);
    expect(await held()).toBe(0);
    expect(await vmRow(vm)).toMatchObject({ hostId: 'b', homeId: 'a', state: 'running' });
    expect(await fixture.ledger.migration.findUniqueOrThrow({ where: { id } })).toMatchObject({
      mode: 'cold',
      state: 'succeeded',
    });
  });

  it('has the requested time limit, or two minutes', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { convergeWithinS: 7 });
    expect(await fixture.activities.loadMigration(id)).toMatchObject({ convergeWithinS: 7 });
    await fixture.activities.rollBackMigration(id, failed);
    expect(await fixture.activities.loadMigration(await ask(vm, 'b'))).toMatchObject({ convergeWithinS: 120 });
  });

  it('frees that space where it converges', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { coldFallback: true });
    await fixture.activities.commitMigration(id, result);
    expect(await fixture.ledger.migration.findUniqueOrThrow({ where: { id } })).toMatchObject({ state: 'succeeded', diskMiB: 0 });
    expect((await failure(fixture.activities.fallBackToCold(id))).code).toBe('conflict');
  });

  it('is refused where that was not requested', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b');
    expect((await failure(fixture.activities.fallBackToCold(id))).code).toBe('conflict');
  });
});

describe('what a migration needs', () => {
  it('is named for every host that lacks it', async () => {
    const { vm } = await running();
    await arrive('closed');
    await fixture.ledger.host.update({ where: { id: 'closed' }, data: { acceptsMigrations: false } });
    await arrive('kvm', { accelerator: 'kvm' });
    await arrive('small', {}, { ...roomy, memoryMiB: 255 });
    const error = await failure(begin(vm));
    expect(error.code).toBe('migration-refused');
    expect(error.message).toContain('a: here, closed: closed, kvm: accelerator, small: memory');
    expect(await vmRow(vm)).toMatchObject({ state: 'running', generation: 1 });
  });

  it('includes no image, but a host that has it is preferred', async () => {
    const { vm } = await running();
    await arrive('b', { images: [] });
    await arrive('c', {}, { ...roomy, memoryMiB: roomy.memoryMiB / 2 });
    expect((await begin(vm)).place.to.id).toBe('c');
  });

  it('includes that the VM does not migrate already, also for concurrent requests', async () => {
    const { vm } = await running();
    await arrive('b');
    const requested = await Promise.allSettled(Array.from({ length: 8 }, () => ask(vm)));
    expect(requested.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const one of requested) if (one.status === 'rejected') expect(one.reason.code).toBe('conflict');
  });

  it('is a VM that runs, of a task that runs', async () => {
    const { task, vm } = await running();
    await arrive('b');
    const id = await ask(vm);
    await fixture.activities.advanceTask(task, 'stagingOut', []);
    expect((await failure(fixture.activities.reserveMigration(id))).message).toContain('is stagingOut');
  });

  it('includes its turn: at most two leave a host at once, the oldest first', async () => {
    const vms: VmId[] = [];
    for (let i = 0; i < 4; i += 1) vms.push((await running()).vm);
    await arrive('b');
    await arrive('c');
    const ids = [];
    for (const vm of vms) ids.push(await ask(vm));
    const turns = [];
    for (const id of [ids[0]!, ids[1]!, ids[3]!, ids[2]!]) turns.push((await fixture.activities.reserveMigration(id)).admitted);
    expect(turns).toEqual([true, true, false, false]);
    await fixture.activities.commitMigration(ids[0]!, result);
    expect(await fixture.activities.reserveMigration(ids[3]!)).toEqual({
      admitted: false,
      reason: `${ids[2]} was requested earlier`,
    });
    expect((await fixture.activities.reserveMigration(ids[2]!)).admitted).toBe(true);
  });

  it('never takes more of a target than it has, also for concurrent requests', async () => {
    const vms = [(await running()).vm, (await running()).vm];
    await arrive('b', {}, { ...roomy, memoryMiB: 300 });
    const begun = await Promise.allSettled(vms.map((vm) => begin(vm, 'b')));
    expect(begun.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect((await used()).b).toEqual([1, 256]);
  });
});

it('the ledger allows the transitions of a migration that the model allows, and no others', async () => {
  const { vm } = await running();
  await arrive('b');
  const states = Object.keys(migrationTransitions) as (keyof typeof migrationTransitions)[];
  const labels = await fixture.sql<{ label: string }>(
    `SELECT enumlabel AS label FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE typname = 'MigrationState' ORDER BY enumsortorder`,
  );
  expect(labels.map(({ label }) => label)).toEqual(['running', 'stuck', 'succeeded', 'rolledBack']);
  const id = await ask(vm);
  const committed = (state: string) => (state === 'succeeded' ? 'now()' : 'NULL');
  await fixture.sql(`UPDATE "Migration" SET state = 'rolledBack' WHERE id = $1`, [id]);
  for (const from of states)
    for (const to of states.filter((state) => state !== from)) {
      await fixture.sql(`DELETE FROM "Migration" WHERE id = 'm'`);
      await fixture.sql(
        `INSERT INTO "Migration" SELECT (jsonb_populate_record(m, jsonb_build_object('id', 'm', 'generation', 99, 'state', $2::text,
           'committedAt', ${committed(from)}))).* FROM "Migration" m WHERE id = $1`,
        [id, from],
      );
      const move = fixture.sql(
        `UPDATE "Migration" SET state = $1::"MigrationState", "committedAt" = ${committed(to)} WHERE id = 'm'`,
        [to],
      );
      const refused = await move.then(
        () => undefined,
        (error: { code?: string }) => error.code,
      );
      const legal = (migrationTransitions[from] as readonly string[]).includes(to);
      expect([from, to, refused]).toEqual([from, to, legal ? undefined : 'BE001']);
    }
});

describe('the duration of a migration', () => {
  const phases = [
    { name: 'reserve' as const, startedAt: '2026-11-21T10:00:00.000Z', seconds: 0.1, bytes: 0 },
    { name: 'preCopy' as const, startedAt: '2026-11-21T10:00:00.000Z', seconds: 2, bytes: 4096 },
    { name: 'switch' as const, startedAt: '2026-11-21T10:00:00.000Z', seconds: 0.12, bytes: 0 },
  ];
  const rows = () => fixture.ledger.measurement.findMany({ orderBy: { at: 'asc' } });

  it('is measured once, in the transaction of its commit, with the last load of the VM', async () => {
    const { vm } = await running();
    await arrive('b');
    await fixture.activities.recordLoads([{ vmId: vm, load: { residentMiB: 170.5, dirtyMiBPerS: 3, busyCpus: 0.4 } }]);
    await fixture.activities.recordLoads([{ vmId: vm, load: { residentMiB: 171.5, dirtyMiBPerS: null, busyCpus: null } }]);
    const { id } = await begin(vm);
    fixture.now += 3000;
    await fixture.activities.commitMigration(id, { ...result, phases });
    await fixture.activities.commitMigration(id, { ...result, phases });
    expect(await rows()).toMatchObject([
      {
        id: `${id}/live`,
        kind: 'live',
        fromId: 'a',
        toId: 'b',
        memoryMiB: 256,
        residentMiB: 171.5,
        dirtyMiBPerS: 3,
        concurrency: 1,
        seconds: 3,
        transferS: 2.12,
        bytes: 4096n,
        downtimeMs: 120,
        recoveryS: null,
      },
    ]);
    expect(await fixture.ledger.vmLoad.findUniqueOrThrow({ where: { vmId: vm } })).toMatchObject({ busyCpus: 0.4 });
    fixture.now += 2500;
    await fixture.activities.recordRecovery(id);
    fixture.now += 5000;
    await fixture.activities.recordRecovery(id);
    expect(await rows()).toMatchObject([{ recoveryS: 2.5 }]);
  });

  it('is not measured when a worker was away at its switch: that is how long its return takes', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    fixture.now += 20_000;
    await fixture.activities.commitMigration(id, { downtimeMs: null, bytes: 0, phases });
    expect(await rows()).toEqual([]);
  });

  it('includes its concurrency with other migrations', async () => {
    const [one, other] = [await running(), await running()];
    await arrive('b');
    const first = await begin(one.vm, 'b');
    fixture.now += 4000;
    const second = await begin(other.vm, 'b');
    fixture.now += 5000;
    await fixture.activities.commitMigration(first.id, { ...result, phases });
    fixture.now += 5000;
    await fixture.activities.commitMigration(second.id, { ...result, phases });
    // Ten seconds of which five were shared, twice.
    expect((await rows()).map(({ seconds, concurrency }) => [seconds, concurrency])).toEqual([
      [10, 1.5],
      [10, 1.5],
    ]);
  });

  it('is three measurements of a cold migration, which add up to the whole', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm, 'b', { mode: 'cold' });
    const at = (s: number) => new Date(fixture.now + s * 1000).toISOString();
    const files = [
      { name: 'prepare' as const, startedAt: at(0), seconds: 1, bytes: 0 },
      { name: 'suspend' as const, startedAt: at(1), seconds: 2, bytes: 0 },
      { name: 'copy' as const, startedAt: at(3), seconds: 4, bytes: 4096 },
      { name: 'restore' as const, startedAt: at(7), seconds: 1.5, bytes: 0 },
    ];
    fixture.now += 9000;
    await fixture.activities.commitMigration(id, { ...result, phases: files });
    const found = await fixture.ledger.measurement.findMany({ orderBy: { id: 'asc' } });
    expect(
      found.map(({ kind, fromId, toId, seconds, transferS, bytes }) => [kind, fromId, toId, seconds, transferS, bytes]),
    ).toEqual([
      ['copy', 'a', 'b', 4, 4, 4096n],
      ['resume', 'b', 'b', 2, 1.5, 0n],
      ['suspend', 'a', 'a', 3, 2, 0n],
    ]);
  });

  it('is not measured when it is rolled back', async () => {
    const { vm } = await running();
    await arrive('b');
    const { id } = await begin(vm);
    await fixture.activities.rollBackMigration(id, failed);
    expect(await rows()).toEqual([]);
  });
});
