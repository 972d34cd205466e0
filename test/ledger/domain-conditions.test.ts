import { beforeEach, describe, expect, it } from 'vitest';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { VmPausedData, VmRemovedData, VmResponsivenessData, VmStoppedData } from '../../model/events.ts';
import type { HostId, ImageId, VmId } from '../../model/ids.ts';
import { currentMachine, type DomainCondition, type EndCause, endings } from '../../model/vm.ts';
import { type VmOperation, VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, hostFacts, useLedger } from './ledger-fixture.ts';

/** What the ledger makes of what hosts observe of domains. */
const fixture = useLedger();
const h1 = 'h1' as HostId;
let owner: string;
let made = 0;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  await fixture.activities.registerHost(hostFacts('h1', { vcpus: 8, memoryMiB: 4096, diskMiB: 8000 }));
});

async function running(more: Record<string, unknown> = {}): Promise<VmId> {
  made += 1;
  const resources = { vcpus: 2, memoryMiB: 512, diskMiB: 100 };
  const order = VmRequest.parse({ name: `vm-${made}`, image: 'debian-12', resources, ...more });
  const id = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
  await fixture.activities.reserveVm(id);
  await fixture.activities.setVmState(id, 'creating');
  await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'warm' });
  return id;
}

const rowOf = (id: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id } });
const eventsOf = (id: VmId) => fixture.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
const typesOf = async (id: VmId) => (await eventsOf(id)).slice(2).map(({ type }) => type.replace('berth.vm.', ''));

async function observe(id: VmId, condition: DomainCondition, host = h1) {
  const { settled } = await fixture.activities.loadDomainTargets(host, [id]);
  return fixture.activities.recordDomains(
    host,
    settled.map(({ vmId, generation }) => ({ vmId, generation, condition })),
  );
}

const paused = (by: 'owner' | 'ioError' | 'operator' | 'guest'): DomainCondition => ({ kind: 'paused', by });
const gone = (cause: 'poweredOff' | 'crashed' | 'hostRestarted' | 'ended', agoMs: number | null = null): DomainCondition => ({
  kind: 'gone',
  cause,
  agoMs,
});
const ask = (id: VmId, operation: VmOperation) =>
  fixture.ledger.$transaction((tx) => acceptOperation(tx, id, operation, fixture.now));

describe('a domain that somebody pauses', () => {
  it('makes its VM paused, with who has done it, and running again, each with an event, as often as it happens', async () => {
    const id = await running();
    for (const by of ['operator', 'ioError', 'guest'] as const) {
      expect(await observe(id, paused(by))).toEqual({ changed: [id], again: [] });
      expect(await rowOf(id)).toMatchObject({ state: 'paused', pausedBy: by });
      expect((await rowOf(id)).problem).toEqual(by === 'ioError' ? expect.objectContaining({ code: 'disk-full' }) : null);
      expect(await observe(id, paused(by))).toEqual({ changed: [], again: [] });
      expect(await observe(id, { kind: 'running' })).toEqual({ changed: [id], again: [] });
      expect(await rowOf(id)).toMatchObject({ state: 'running', pausedBy: null, problem: null });
    }
    expect(await typesOf(id)).toEqual(['paused', 'resumed', 'paused', 'resumed', 'paused', 'resumed']);
    const byWhom = (await eventsOf(id))
      .filter(({ type }) => type === 'berth.vm.paused')
      .map(({ data }) => VmPausedData.parse(data).by);
    expect(byWhom).toEqual(['operator', 'ioError', 'guest']);
  });

  it('may be resumed by its owner, also where another party has paused it, and an owner has its own pause', async () => {
    const id = await running();
    await observe(id, paused('operator'));
    expect(await ask(id, 'resume')).toBe(true);
    await fixture.activities.beginOperation(id, 'resume');
    await fixture.activities.endOperation(id, 'resume', 'running', null);
    expect(await rowOf(id)).toMatchObject({ state: 'running', operation: null });
    await ask(id, 'pause');
    await fixture.activities.beginOperation(id, 'pause');
    await fixture.activities.endOperation(id, 'pause', 'paused', null);
    expect(await rowOf(id)).toMatchObject({ state: 'paused', pausedBy: 'owner' });
    expect(await typesOf(id)).toEqual(['paused', 'resumed', 'paused']);
  });

  it('is left to the operation that is under way, and to the next observation where one has begun since', async () => {
    const id = await running();
    await ask(id, 'pause');
    expect(await fixture.activities.loadDomainTargets(h1, [id])).toEqual({ settled: [], busy: [id] });
    await fixture.activities.beginOperation(id, 'pause');
    await fixture.activities.endOperation(id, 'pause', null, null);
    const { generation } = await rowOf(id);
    const finding = { vmId: id, generation: generation - 1, condition: gone('crashed') };
    expect(await fixture.activities.recordDomains(h1, [finding])).toEqual({ changed: [], again: [id] });
    expect((await rowOf(id)).state).toBe('running');
  });

  it('does not answer, since then, until it answers, ends or is paused', async () => {
    const id = await running();
    const silentSince = async () => (await rowOf(id)).silentSince;
    expect(await observe(id, { kind: 'running', answers: true })).toEqual({ changed: [], again: [] });
    const since = new Date(fixture.now);
    expect(await observe(id, { kind: 'running', answers: false })).toEqual({ changed: [id], again: [] });
    fixture.now += 60_000;
    expect(await observe(id, { kind: 'running', answers: false })).toEqual({ changed: [], again: [] });
    expect(await silentSince()).toEqual(since);
    expect(await observe(id, { kind: 'running', answers: true })).toEqual({ changed: [id], again: [] });
    expect(await silentSince()).toBeNull();
    await observe(id, { kind: 'running', answers: false });
    await observe(id, paused('operator'));
    expect(await silentSince()).toBeNull();
    expect(await typesOf(id)).toEqual(['unresponsive', 'responsive', 'unresponsive', 'paused']);
    const [hangs, answers] = (await eventsOf(id)).filter(({ type }) => type.endsWith('esponsive'));
    expect(VmResponsivenessData.parse(hangs!.data).since).toBe(since.toISOString());
    expect(VmResponsivenessData.parse(answers!.data).since).toBe(new Date(since.getTime() + 60_000).toISOString());
  });

  it('is not its host, where it was before', async () => {
    const id = await running();
    expect(await fixture.activities.loadDomainTargets('h2' as HostId, [id])).toEqual({ settled: [], busy: [] });
  });
});

describe('a domain that ends without Berth', () => {
  it.each([
    ['poweredOff', 'stopped', 'powered-off'],
    ['crashed', 'crashed', 'guest-crashed'],
    ['hostRestarted', 'stopped', 'host-restarted'],
    ['ended', 'stopped', 'vm-lost'],
  ] as const)('by %s makes its VM %s, whose usage ended then, and which can be booted again', async (cause, state, code) => {
    const id = await running();
    const began = fixture.now;
    fixture.now += 3_600_000;
    await observe(id, gone(cause, 3_000_000));
    const endedAt = new Date(began + 600_000);
    expect(await rowOf(id)).toMatchObject({ state, problem: { code }, endedAt });
    const event = (await eventsOf(id)).at(-1)!;
    expect(event.type).toBe(`berth.vm.${state}`);
    const data = VmStoppedData.parse(event.data);
    expect([data.stoppedAt, data.error.code, data.usage.map(({ vcpuSeconds }) => vcpuSeconds)]).toEqual([
      endedAt.toISOString(),
      code,
      [1200],
    ]);
    expect(await ask(id, 'reboot')).toBe(true);
    await fixture.activities.beginStart(id);
    fixture.now += 1000;
    await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'cold', why: 'used-disk' });
    await fixture.activities.endOperation(id, 'reboot', null, null);
    expect(await rowOf(id)).toMatchObject({ state: 'running', problem: null, endedAt: null });
    fixture.now += 10_000;
    await fixture.activities.finishVm(id, { endedAt: new Date(fixture.now).toISOString(), error: null });
    const removed = VmRemovedData.parse((await eventsOf(id)).at(-1)!.data);
    expect(removed.vcpuSeconds).toBe(1220);
  });

  it('never ended before it began, nor later than now', async () => {
    const id = await running();
    const began = fixture.now;
    fixture.now += 1000;
    await observe(id, gone('poweredOff', 86_400_000));
    expect((await rowOf(id)).endedAt).toEqual(new Date(began));
  });

  it('while its memory was to be saved is no reason to be stuck', async () => {
    const id = await running();
    const began = fixture.now;
    await ask(id, 'suspend');
    await fixture.activities.beginSuspension(id);
    fixture.now += 60_000;
    const why = { code: 'powered-off', message: 'off' } as const;
    await fixture.activities.rollBackSuspension(id, why, true, 50_000);
    await fixture.activities.endOperation(id, 'suspend', null, why);
    expect(await rowOf(id)).toMatchObject({ state: 'stopped', operation: null, problem: why, endedAt: new Date(began + 10_000) });
    expect(await typesOf(id)).toEqual(['stopped']);
  });

  it('while it migrates ends its usage as well', async () => {
    await fixture.activities.registerHost(hostFacts('h2', { vcpus: 8, memoryMiB: 4096, diskMiB: 8000 }));
    const id = await running();
    const image = (await rowOf(id)).imageId as ImageId;
    for (const host of ['h1', 'h2'] as HostId[]) await fixture.activities.recordImageCached(host, image);
    const order = { vm: id, to: 'h2', coldFallback: false, requestedBy: owner, reason: null, nowMs: fixture.now };
    const migration = await fixture.ledger.$transaction((tx) => acceptMigration(tx, order));
    expect(await fixture.activities.reserveMigration(migration)).toMatchObject({ admitted: true });
    const began = fixture.now;
    fixture.now += 5000;
    const error = { code: 'vm-lost', message: 'it ended on its way' } as const;
    await fixture.activities.rollBackMigration(migration, { error, lost: true, downtimeMs: null, bytes: 0, phases: [] });
    expect(await rowOf(id)).toMatchObject({ state: 'stopped', hostId: 'h1', problem: error, endedAt: new Date(began + 5000) });
    fixture.now += 60_000;
    await fixture.activities.finishVm(id, { endedAt: new Date(fixture.now).toISOString(), error: null });
    expect(VmRemovedData.parse((await eventsOf(id)).at(-1)!.data).vcpuSeconds).toBe(10);
  });

  it('right after it was restored has no usage besides that before its suspension', async () => {
    const id = await running();
    fixture.now += 10_000;
    await fixture.activities.beginSuspension(id);
    await fixture.activities.commitSuspension(id);
    fixture.now += 10_000;
    await fixture.activities.beginRestoration(id);
    await fixture.activities.rollBackSuspension(id, { code: 'guest-crashed', message: 'dead' }, true);
    expect((await rowOf(id)).state).toBe('crashed');
    await fixture.activities.finishVm(id, { endedAt: new Date(fixture.now).toISOString(), error: null });
    expect(VmRemovedData.parse((await eventsOf(id)).at(-1)!.data).vcpuSeconds).toBe(20);
  });

  it("of a task's VM is left to its task", async () => {
    const task = await accept(fixture, owner, { resources: { vcpus: 1, memoryMiB: 256, diskMiB: 100 } });
    const placement = await fixture.activities.reserveTask(task);
    if (!placement.placed) throw new Error('not placed');
    await fixture.activities.advanceTask(task, 'stagingIn', []);
    await fixture.activities.advanceTask(task, 'starting', [], 'creating');
    await fixture.activities.advanceTask(task, 'running', [], 'running');
    const { id } = placement.vms[0]!;
    expect(await observe(id, gone('crashed'))).toEqual({ changed: [], again: [] });
    expect(await observe(id, paused('operator'))).toEqual({ changed: [id], again: [] });
    expect(await rowOf(id)).toMatchObject({ state: 'paused', pausedBy: 'operator' });
  });
});

it('the ledger refuses a paused VM of nobody, and a pause of one that runs', async () => {
  const id = await running();
  await fixture.sql(`UPDATE "Vm" SET state = 'paused' WHERE id = $1`, [id]);
  expect((await rowOf(id)).pausedBy).toBe('owner');
  await fixture.sql(`UPDATE "Vm" SET state = 'running', "pausedBy" = 'operator' WHERE id = $1`, [id]);
  expect((await rowOf(id)).pausedBy).toBeNull();
});

describe('a machine version', () => {
  const versionOf = async (id: VmId) => (await rowOf(id)).machine;

  it('is the current one of a new VM, and its host is told', async () => {
    const id = await running();
    expect(await versionOf(id)).toBe(currentMachine);
    expect((await fixture.activities.beginOperation(id, 'pause')).vm.machine).toBe(currentMachine);
  });

  it('of a VM of before stays with what runs and what is saved, and is the current one at its next boot of a new domain', async () => {
    const id = await running();
    await fixture.sql(`ALTER TABLE "Vm" DISABLE TRIGGER "Vm_machine_kept"`);
    await fixture.sql(`UPDATE "Vm" SET machine = 1 WHERE id = $1`, [id]);
    await fixture.sql(`ALTER TABLE "Vm" ENABLE TRIGGER "Vm_machine_kept"`);
    await fixture.activities.beginOperation(id, 'reboot');
    await fixture.activities.beginSuspension(id);
    await fixture.activities.commitSuspension(id);
    expect((await fixture.activities.beginRestoration(id)).vm.machine).toBe(1);
    await fixture.activities.commitRestoration(id);
    await expect(fixture.sql(`UPDATE "Vm" SET machine = 2 WHERE id = $1`, [id])).rejects.toMatchObject({ code: 'BE001' });
    await observe(id, gone('poweredOff'));
    expect((await fixture.activities.beginStart(id)).vm.machine).toBe(currentMachine);
    expect(await versionOf(id)).toBe(currentMachine);
  });
});

describe('a host that was restarted', () => {
  const register = (bootId: string, bootedAgoMs?: number) =>
    fixture.activities.registerHost({
      ...hostFacts('h1', { vcpus: 8, memoryMiB: 4096, diskMiB: 8000 }),
      bootId,
      ...(bootedAgoMs === undefined ? {} : { bootedAgoMs }),
    });

  it('has ended its domains when it was booted, and has those booted again whose owner says always', async () => {
    await register('first');
    const [never, always, task] = [await running(), await running({ restart: 'always' }), await running()];
    await fixture.activities.beginOperation(task, 'pause');
    await fixture.activities.beginSuspension(task);
    const began = fixture.now;
    fixture.now += 600_000;
    await register('first');
    expect((await rowOf(never)).state).toBe('running');
    expect(await register('second', 120_000)).toEqual(expect.arrayContaining([never, always]));
    const endedAt = new Date(began + 480_000);
    expect(await rowOf(never)).toMatchObject({ state: 'stopped', problem: { code: 'host-restarted' }, endedAt, operation: null });
    expect(await rowOf(always)).toMatchObject({ state: 'stopped', endedAt, operation: 'reboot' });
    // Its saga is at work, and finds out itself.
    expect((await rowOf(task)).state).toBe('suspending');
  });

  it('restarts after a crash, not in a circle, and not what powered itself off', async () => {
    const [young, old, off] = [
      await running({ restart: 'always' }),
      await running({ restart: 'always' }),
      await running({ restart: 'always' }),
    ];
    fixture.now += 10_000;
    await observe(young, gone('crashed', 0));
    expect(await rowOf(young)).toMatchObject({ state: 'crashed', operation: null });
    fixture.now += 90_000;
    await observe(old, gone('crashed', 0));
    expect(await rowOf(old)).toMatchObject({ state: 'crashed', operation: 'reboot' });
    await observe(off, gone('poweredOff', 0));
    expect(await rowOf(off)).toMatchObject({ state: 'stopped', operation: null });
  });

  describe('restarts also what ended while an operation was under way', () => {
    /** As its workflow does: the step on the host finds no domain. */
    async function failedOperation(id: VmId, operation: VmOperation, cause: EndCause): Promise<string | null> {
      const { code, says: message } = endings[cause];
      await ask(id, operation);
      if (operation === 'suspend') {
        await fixture.activities.beginSuspension(id);
        await fixture.activities.rollBackSuspension(id, { code, message }, true, 0);
      } else {
        await fixture.activities.beginOperation(id, operation);
        await fixture.activities.recordVmMissing(id, { code, message }, 0);
      }
      await fixture.activities.endOperation(id, operation, null, { code, message });
      return (await rowOf(id)).operation;
    }
    const operations = ['pause', 'resume', 'suspend', 'reboot'] as const;

    it.each(operations)('%s', async (operation) => {
      const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 100 };
      const make = () => running({ restart: 'always', resources });
      const [young, crashed, restarted, off] = [await make(), await make(), await make(), await make()];
      const never = await running({ resources });
      expect(await failedOperation(young, operation, 'crashed')).toBeNull();
      fixture.now += 90_000;
      expect(await failedOperation(crashed, operation, 'crashed')).toBe('reboot');
      expect(await failedOperation(restarted, operation, 'hostRestarted')).toBe('reboot');
      expect(await failedOperation(off, operation, 'poweredOff')).toBeNull();
      expect(await failedOperation(never, operation, 'crashed')).toBeNull();
    });

    it('but not what crashes while it starts again', async () => {
      const id = await running({ restart: 'always' });
      fixture.now += 90_000;
      expect(await failedOperation(id, 'reboot', 'crashed')).toBe('reboot');
      await fixture.activities.beginStart(id);
      const { code, says: message } = endings.crashed;
      await fixture.activities.setVmState(id, 'crashed', { code, message });
      await fixture.activities.endOperation(id, 'reboot', null, { code, message });
      expect(await rowOf(id)).toMatchObject({ state: 'crashed', operation: null });
    });
  });
});
