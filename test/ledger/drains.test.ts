import { beforeEach, describe, expect, it, test } from 'vitest';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { changeHost } from '../../ledger/hosts/change-host.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { SuspendInPlace } from '../../model/drain.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, hostFacts, roomy, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  for (const id of ['host-a', 'host-b']) await fixture.activities.registerHost(hostFacts(id, roomy));
});

test('a template that is being made on a host that is drained is cancelled, and no other is begun there', async () => {
  const placement = await fixture.activities.reserveTask(await accept(fixture, owner));
  if (!placement.placed) throw new Error('there is no room for a task');
  const like = placement.vms[0]!;
  const place = await fixture.activities.reserveTemplate(like);
  if (place.kind !== 'reserved') throw new Error(`a template is ${place.kind}`);
  const nowMs = fixture.now;
  const how = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 } as const;
  const id = await fixture.ledger.$transaction((tx) =>
    acceptDrain(tx, {
      ...how,
      host: like.host,
      deadlineMs: nowMs + 3600_000,
      returnAfterMs: null,
      returnVms: false,
      owner,
      reason: null,
      nowMs,
    }),
  );
  expect(await fixture.activities.stepDrain(id)).toMatchObject({
    state: 'waiting',
    cancelTemplateBuilds: true,
    notifications: ['planner'],
  });
  await fixture.activities.releaseVms([place.vm.id]);
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ cancelTemplateBuilds: false, notifications: [] });
  expect(await fixture.activities.reserveTemplate(like)).toMatchObject({ kind: 'waits' });
});

test('a task’s VM that is suspended for a promise, and that no host can take, remains on the host, which counts as empty', async () => {
  const task = await accept(fixture, owner);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('there is no room for a task');
  const { id: vm, host } = placement.vms[0]!;
  for (const state of ['stagingIn', 'starting', 'running'] as const) await fixture.activities.advanceTask(task, state, []);
  for (const state of ['creating', 'running'] as const) await fixture.activities.setVmState(vm, state);
  await fixture.sql(`UPDATE "Host" SET "acceptsMigrations" = false WHERE id <> $1`, [host]);
  const nowMs = fixture.now;
  const ask = () =>
    fixture.ledger.$transaction((tx) =>
      acceptDrain(tx, {
        strategy: 'auto',
        mode: 'auto',
        moveDisks: false,
        suspendInPlace: 'ifStuck',
        confidence: 0.99,
        host,
        deadlineMs: nowMs + 60_000,
        returnAfterMs: nowMs + 120_000,
        returnVms: true,
        owner,
        reason: null,
        nowMs,
      }),
    );
  // While the VM runs, only the plan suspends it.
  await expect(ask()).rejects.toThrow('it belongs to a task');
  await fixture.activities.beginSuspension(vm);
  await fixture.activities.commitSuspension(vm);
  const id = await ask();
  fixture.now += 60_000;
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ verifyEmpty: true, moves: [], vmsToNotify: [] });
  const found = { domains: [], taps: [], networks: [], quarantined: [], images: [] };
  expect(await fixture.activities.verifyHostEmpty(id, { ...found, disks: [] })).toBe(false);
  expect((await fixture.ledger.drain.findUniqueOrThrow({ where: { id } })).remaining).toEqual([
    { what: vm, why: `it is to lie there suspended, and ${host} has no folder of it` },
  ]);
  const running = { name: vm, vmId: vm, state: 'running' };
  const disks = [{ vmId: vm, generation: 2, bytes: 1 }];
  expect(await fixture.activities.verifyHostEmpty(id, { ...found, disks, domains: [running] })).toBe(false);
  expect(await fixture.activities.verifyHostEmpty(id, { ...found, disks })).toBe(true);
  expect(await fixture.ledger.drain.findUniqueOrThrow({ where: { id } })).toMatchObject({ state: 'held', remaining: null });
  await expect(fixture.activities.beginRestoration(vm)).rejects.toThrow(`it is restored when host ${host} is opened`);
  fixture.now += 60_000;
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ state: 'returned', vmsToNotify: [] });
  // The VM is suspended as before, and the plan resumes it.
  expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject({ state: 'suspended', operation: null });
  expect(await fixture.ledger.host.findUniqueOrThrow({ where: { id: host } })).toMatchObject({ schedulable: true });
  await fixture.activities.beginRestoration(vm);
});

test('a drain of a host that does not answer is accepted, waits for it past its deadline, and goes on when it is back', async () => {
  await fixture.sql(`UPDATE "Host" SET "acceptsMigrations" = true`);
  const task = await accept(fixture, owner, { timeoutS: 86_400 });
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('there is no room for a task');
  const { id: vm, host } = placement.vms[0]!;
  for (const state of ['stagingIn', 'starting', 'running'] as const) await fixture.activities.advanceTask(task, state, []);
  for (const state of ['creating', 'running'] as const) await fixture.activities.setVmState(vm, state);
  await fixture.activities.markHostUnreachable(host);
  const nowMs = fixture.now;
  const id = await fixture.ledger.$transaction((tx) =>
    acceptDrain(tx, {
      ...{ strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 },
      ...{ host, deadlineMs: nowMs + 1000, returnAfterMs: null, returnVms: false, owner, reason: null, nowMs },
    }),
  );
  fixture.now += 300_000;
  expect(await fixture.activities.stepDrain(id)).toMatchObject({
    state: 'waiting',
    moves: [],
    verifyEmpty: false,
    summary: `**waits for ${host}**, which does not answer`,
  });
  await fixture.sql(`UPDATE "Host" SET state = 'up' WHERE id = $1`, [host]);
  const image = { host: host === 'host-a' ? 'host-b' : 'host-a' };
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ state: 'moving', images: [image], sampleLoads: [vm] });
});

describe('a VM that does not run', () => {
  async function standalone(last: 'stopped' | 'paused'): Promise<{ vm: VmId; host: HostId }> {
    await addImage(fixture, 'rooted', 64);
    const request = VmRequest.parse({ name: 'alone', image: 'rooted' });
    const id = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order: request, nowMs: fixture.now }));
    const placement = await fixture.activities.reserveVm(id as VmId);
    if (!placement.placed) throw new Error('there is no room for a VM');
    for (const state of ['creating', 'running', last] as const) await fixture.activities.setVmState(id as VmId, state);
    return { vm: id as VmId, host: placement.vm.host };
  }

  const drain = (host: string, moveDisks: boolean, suspendInPlace: SuspendInPlace = 'never') =>
    fixture.ledger.$transaction((tx) =>
      acceptDrain(tx, {
        ...{ strategy: 'auto', mode: 'auto', moveDisks, suspendInPlace, confidence: 0.99 },
        ...{
          host,
          deadlineMs: fixture.now + 600_000,
          returnAfterMs: null,
          returnVms: false,
          owner,
          reason: null,
          nowMs: fixture.now,
        },
      }),
    );
  const inventory = { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] };

  it('and is paused moves live, whatever is known of its load', async () => {
    const { vm, host } = await standalone('paused');
    const id = await drain(host, false);
    fixture.now += 590_000;
    const target = host === 'host-a' ? 'host-b' : 'host-a';
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ images: [{ host: target }], vmsToNotify: [] });
    await fixture.sql(
      `INSERT INTO "HostImage" ("hostId", "imageId", "usedAt") SELECT $1, "imageId", now() FROM "Vm" WHERE id = $2`,
      [target, vm],
    );
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ moves: [{ vm }] });
    const migration = await fixture.ledger.migration.findFirstOrThrow({ where: { vmId: vm } });
    expect(migration).toMatchObject({ mode: 'live', orCold: false, toId: target });
    await fixture.activities.reserveMigration(migration.id as MigrationId);
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject({
      state: 'migrating',
      pausedBy: null,
    });
    await fixture.activities.commitMigration(migration.id as MigrationId, { downtimeMs: null, bytes: 1, phases: [] });
    const after = { state: 'paused', pausedBy: 'owner', hostId: target };
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject(after);
  });

  it('and sleeps is suspended in place where that is allowed, and is in the way else', async () => {
    const { vm, host } = await standalone('paused');
    await fixture.sql(`UPDATE "Vm" SET "pausedBy" = 'guest'`);
    await expect(drain(host, false)).rejects.toThrow('its guest sleeps');
    const id = await drain(host, false, 'ifStuck');
    fixture.now += 600_000;
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ vmsToNotify: [vm] });
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject({ operation: 'suspend' });
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.commitSuspension(vm);
    await fixture.activities.endOperation(vm, 'suspend', null, null);
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ verifyEmpty: true });
  });

  it('and is stopped is left on a host that is drained without its disks, and is started again when that is open', async () => {
    const { vm, host } = await standalone('stopped');
    const id = await drain(host, false);
    const start = () => fixture.ledger.$transaction((tx) => acceptOperation(tx, vm, 'reboot', fixture.now));
    await expect(start()).rejects.toThrow('which is drained');
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ verifyEmpty: true });
    const disks = [{ vmId: vm, generation: 1, bytes: 1 }];
    expect(await fixture.activities.verifyHostEmpty(id, { ...inventory, disks })).toBe(true);
    expect((await fixture.ledger.drain.findUniqueOrThrow({ where: { id } })).state).toBe('empty');
    await expect(start()).rejects.toThrow('which is drained');
    await changeHost(fixture.ledger, host, { schedulable: true }, fixture.now);
    expect(await start()).toBe(true);
  });

  it('and is stopped moves with its disks where these have to leave, and is billed for nothing meanwhile', async () => {
    const { vm, host } = await standalone('stopped');
    await fixture.sql(`UPDATE "Vm" SET problem = '{"code": "powered-off", "message": "off"}' WHERE id = $1`, [vm]);
    const target = host === 'host-a' ? 'host-b' : 'host-a';
    await fixture.sql(`INSERT INTO "HostImage" ("hostId", "imageId") SELECT $1, "imageId" FROM "Vm" WHERE id = $2`, [target, vm]);
    const id = await drain(host, true);
    fixture.now += 600_000;
    expect(await fixture.activities.stepDrain(id)).toMatchObject({ moves: [{ vm }] });
    const row = await fixture.ledger.migration.findFirstOrThrow({ where: { vmId: vm } });
    expect(row).toMatchObject({ mode: 'cold', moveDisk: true, toId: target });
    const migration = row.id as MigrationId;
    const before = await usage(fixture);
    expect(await fixture.activities.reserveMigration(migration)).toMatchObject({ admitted: true, route: { ended: true } });
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject({ state: 'migrating' });
    await fixture.activities.commitMigration(migration, { downtimeMs: null, bytes: 1, phases: [] });
    const after = { state: 'stopped', hostId: target, homeId: target, problem: { code: 'powered-off' } };
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject(after);
    // No time at the target: its disks are billed there from now on.
    const now = new Date(fixture.now);
    expect(await fixture.ledger.vmStay.findMany()).toMatchObject([{ hostId: target, since: now, until: now }]);
    const takenOf = (rows: typeof before, at: string) => rows.find(({ id: one }) => one === at)!.said;
    expect([takenOf(await usage(fixture), host), takenOf(await usage(fixture), target)]).toEqual([
      [0, 0, 0],
      takenOf(before, host),
    ]);
  });

  it('and is stopped stays where no host can take it, and is in the way of a drain that moves live alone', async () => {
    const { vm, host } = await standalone('stopped');
    const request = {
      vm,
      to: null,
      mode: 'cold',
      coldFallback: false,
      requestedBy: owner,
      reason: null,
      nowMs: fixture.now,
    } as const;
    const move = (moveDisk: boolean) => fixture.ledger.$transaction((tx) => acceptMigration(tx, { ...request, moveDisk }));
    await expect(move(false)).rejects.toThrow('move it with moveDisk');
    const migration = await move(true);
    await fixture.activities.reserveMigration(migration);
    const error = { code: 'disk-full', message: 'full' } as const;
    await fixture.activities.rollBackMigration(migration, { error, lost: false, downtimeMs: null, bytes: 0, phases: [] });
    expect(await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).toMatchObject({ state: 'stopped', hostId: host });
    await fixture.sql(`UPDATE "Host" SET "acceptsMigrations" = false WHERE id <> $1`, [host]);
    await expect(drain(host, true, 'ifStuck')).rejects.toThrow('it does not run');
  });
});
