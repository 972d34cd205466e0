import { beforeEach, describe, expect, it } from 'vitest';
import { certainOffsetMs } from '../../ledger/hosts/host-clock.ts';
import { openLedgerClock } from '../../ledger/ledger-clock.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { TaskEndedData, VmRemovedData } from '../../model/events.ts';
import type { HostInventory } from '../../model/host.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, hostFacts, useLedger } from './ledger-fixture.ts';

/** Usage is on the ledger's clock, whatever the clocks of hosts and workers say; and hosts whose clock is off are told. */
const fixture = useLedger();
const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 100 };
const hour = 3_600_000;
let owner: string;
let made = 0;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  for (const id of ['a', 'b']) await fixture.activities.registerHost(hostFacts(id, { vcpus: 8, memoryMiB: 4096, diskMiB: 8000 }));
});

const acceptAlone = (): Promise<VmId> => {
  made += 1;
  const order = VmRequest.parse({ name: `vm-${made}`, image: 'debian-12', resources });
  return fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
};

/** By the clock of a worker that is an hour ahead. */
const elsewhere = (agoMs = 0): string => new Date(fixture.now + hour - agoMs).toISOString();
const lastEvent = async (subject: string) =>
  (await fixture.ledger.event.findFirstOrThrow({ where: { subject }, orderBy: { seq: 'desc' } })).data;

describe('usage', () => {
  it('of a standalone VM lasts as long as it ran, where its times come from another clock than those of its suspension', async () => {
    const id = await acceptAlone();
    await fixture.activities.reserveVm(id);
    await fixture.activities.setVmState(id, 'creating');
    const began = fixture.now;
    fixture.now += 5000;
    await fixture.activities.recordVmStarted(id, elsewhere(5000), { kind: 'warm' }, elsewhere());
    fixture.now += 10_000;
    await fixture.activities.beginSuspension(id);
    await fixture.activities.commitSuspension(id);
    fixture.now += 100_000;
    await fixture.activities.beginRestoration(id);
    await fixture.activities.commitRestoration(id);
    fixture.now += 20_000;
    await fixture.activities.finishVm(id, { endedAt: elsewhere(1000), error: null, reportedAt: elsewhere() });
    const removed = VmRemovedData.parse(await lastEvent(id));
    expect([removed.vcpuSeconds, removed.startedAt]).toEqual([15 + 19, new Date(began).toISOString()]);
  });

  it('of a task is of its own length, and by the ledger', async () => {
    const task = await accept(fixture, owner, { resources });
    const placement = await fixture.activities.reserveTask(task);
    if (!placement.placed) throw new Error('not placed');
    for (const state of ['stagingIn', 'starting', 'running'] as const) await fixture.activities.advanceTask(task, state, []);
    const { id } = placement.vms[0]!;
    fixture.now += 60_000;
    const outcome = { state: 'failed', exitCode: 1, error: null, bytesIn: 0, bytesOut: 0, outputs: [], timeline: [] } as const;
    const vms = [{ id, startedAt: elsewhere(50_000), endedAt: elsewhere(10_000) }];
    await fixture.activities.finishTask(task, { ...outcome, outputs: [], timeline: [], vms, reportedAt: elsewhere() }, [id]);
    const [usage] = TaskEndedData.parse(await lastEvent(task)).usage;
    const ago = (ms: number) => new Date(fixture.now - ms).toISOString();
    expect([usage!.vcpuSeconds, usage!.startedAt, usage!.endedAt]).toEqual([40, ago(50_000), ago(10_000)]);
  });

  it('is by the clock of the database, not by that of the machine of a control worker', async () => {
    const hourAhead = await openLedgerClock(fixture.ledger, () => Date.now() + hour);
    const right = await openLedgerClock(fixture.ledger);
    expect(Math.abs(hourAhead.nowMs() - right.nowMs())).toBeLessThan(500);
  });
});

describe('the clock of a host', () => {
  const compare = (id: string, clockMs: number, askedAgoMs = 10) => {
    const found: HostInventory = { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] };
    return fixture.activities.compareHost(id as HostId, { ...found, clockMs }, new Date(fixture.now - askedAgoMs).toISOString());
  };
  const hostOf = (id: string) => fixture.ledger.host.findUniqueOrThrow({ where: { id } });

  it.each([2500, -2500, hour, -hour])('that is off by %i ms keeps new work from it, until it is right again', async (offMs) => {
    await compare('a', fixture.now + offMs);
    expect(await hostOf('a')).toMatchObject({ clockOff: true });
    expect(Math.abs((await hostOf('a')).clockOffsetMs! - offMs)).toBeLessThanOrEqual(10);
    await compare('b', fixture.now);
    expect(await hostOf('b')).toMatchObject({ clockOff: false, clockOffsetMs: 0 });
    const first = await acceptAlone();
    expect(await fixture.activities.reserveVm(first)).toMatchObject({ placed: true, vm: { host: 'b' } });
    await compare('b', fixture.now + offMs);
    const second = await acceptAlone();
    expect(await fixture.activities.reserveVm(second)).toMatchObject({ placed: false });
    await compare('a', fixture.now);
    expect(await fixture.activities.reserveVm(second)).toMatchObject({ placed: true, vm: { host: 'a' } });
  });

  it('is not accused where the answer was slow', async () => {
    await compare('a', fixture.now - 60_000, 61_000);
    expect(await hostOf('a')).toMatchObject({ clockOff: false, clockOffsetMs: 0 });
    expect([certainOffsetMs(5, 10, 20), certainOffsetMs(15, 10, 20), certainOffsetMs(30, 10, 20)]).toEqual([-5, 0, 10]);
  });
});
