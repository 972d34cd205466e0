import { beforeEach, expect, it } from 'vitest';
import { readDrainInput } from '../../ledger/drains/planner-input.ts';
import { siteOf } from '../../ledger/leases/plan/ledger-site.ts';
import { readSite } from '../../ledger/leases/plan/read-site.ts';
import { changeHostRemoved } from '../../ledger/levers/remove-host.ts';
import { reservationDrain } from '../../ledger/reservations/accept-reservation.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { BerthError } from '../../model/errors.ts';
import type { HostId } from '../../model/ids.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

/** What chooses hosts agrees on which take new work: also on those whose clock is off, and those that were removed. */
const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  for (const id of ['a', 'b']) await fixture.activities.registerHost(hostFacts(id, roomy));
});

async function removeAsLost(id: HostId): Promise<void> {
  await fixture.activities.markHostUnreachable(id);
  const removal = { declaredLost: true, by: owner, nowMs: fixture.now };
  const refusal = (await failure(changeHostRemoved(fixture.ledger, id, { ...removal, confirm: null }))) as BerthError;
  await changeHostRemoved(fixture.ledger, id, { ...removal, confirm: String(refusal.extra.token) });
}

const site = async () => siteOf(await readSite(fixture.ledger, { hosts: [], others: 'leases' }));
const siteHosts = async () => (await site()).hosts.map(({ id }) => id);

it('a removed host is no host of the plan, and a promise that was planned on it gets another', async () => {
  const lease = { kind: 'reservation', startAt: new Date(fixture.now + 3_600_000).toISOString(), durationS: 600 };
  const task = await accept(fixture, owner, { lease });
  const planned = async () => (await fixture.ledger.lease.findFirstOrThrow({ where: { task: { id: task } } })).plannedHosts;
  const [first] = (await planned()) as [HostId];
  const other = first === 'a' ? 'b' : 'a';
  await removeAsLost(first);
  expect(await siteHosts()).toEqual([other]);
  await fixture.activities.stepPlan();
  expect(await planned()).toEqual([other]);
});

it('a drain moves no VM to a host whose clock is off', async () => {
  const acceptsMigrations = () =>
    fixture.ledger.$transaction(async (tx) => {
      const request = { ...reservationDrain, host: 'a', deadlineMs: fixture.now + 3_600_000, nowMs: fixture.now };
      const { hosts } = await readDrainInput(tx, request);
      return hosts.find(({ id }) => id === 'b')!.acceptsMigrations;
    });
  expect(await acceptsMigrations()).toBe(true);
  await fixture.sql(`UPDATE "Host" SET "clockOff" = true WHERE id = 'b'`);
  expect(await acceptsMigrations()).toBe(false);
});

it('hosts whose clocks are off have no say in whether VMs start from templates everywhere', async () => {
  await fixture.sql(`UPDATE "Image" SET "sizeBytes" = 5 * 1073741824::bigint`);
  await fixture.sql(`UPDATE "Host" SET "clockOff" = true WHERE id = 'b'`);
  const order = VmRequest.parse({ name: 'vm', image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 100 } });
  const vm = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
  await fixture.activities.reserveVm(vm);
  await fixture.activities.setVmState(vm, 'creating');
  const now = new Date(fixture.now).toISOString();
  await fixture.activities.recordVmStarted(vm, now, { kind: 'warm' }, now);
  const { imageId } = await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
  const kind = { imageId, imageMiB: 5120, each: { vcpus: 1, memoryMiB: 256 } };
  const leadS = async () => (await site()).leadOf(kind);
  const warmS = await leadS();
  // More hosts than recent starts are looked at; none of them takes work.
  await fixture.sql(`
    INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt", "clockOff")
    SELECT 'off-' || n, 'off-' || n, 'site', 'up', 8, 8192, 100000, 'test', 'qemu', 'none', 'boot-1', now(), true FROM generate_series(1, 600) n`);
  expect(await leadS()).toBe(warmS);
});
