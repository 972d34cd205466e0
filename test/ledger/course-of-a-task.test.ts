import { beforeEach, describe, expect, it } from 'vitest';
import type { VmRef } from '../../contracts/host-calls.ts';
import type { TaskOutcome } from '../../contracts/ledger.ts';
import { TaskEndedData, taskEventData } from '../../model/events.ts';
import type { HostId, ImageId, TaskId, VmId } from '../../model/ids.ts';
import { type TaskState, taskStates, terminalTaskStates } from '../../model/states.ts';
import {
  accept,
  addImage,
  addOwner,
  empty,
  failure,
  hex64,
  hostFacts,
  outcomeOf,
  roomy,
  usage,
  useLedger,
} from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  await fixture.activities.registerHost(hostFacts('a', roomy));
});

const at = (second: number) => new Date(Date.parse('2026-11-21T12:00:00Z') + second * 1000).toISOString();
const timeline = [{ step: 'stageIn', startedAt: at(0), endedAt: at(1) }];

const outcome = (more: Partial<TaskOutcome> = {}): TaskOutcome => outcomeOf({ timeline, ...more });

async function placed(spec: Record<string, unknown> = {}): Promise<{ task: TaskId; vms: VmRef[] }> {
  const task = await accept(fixture, owner, spec);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('not placed');
  return { task, vms: placement.vms };
}

async function advance(task: TaskId, to: TaskState): Promise<void> {
  const { advanceTask } = fixture.activities;
  await advanceTask(task, 'stagingIn', timeline);
  if (to === 'stagingIn') return;
  await advanceTask(task, 'starting', timeline, 'creating');
  if (to === 'starting') return;
  await advanceTask(task, 'running', timeline, 'running');
  if (to === 'running') return;
  await advanceTask(task, 'stagingOut', timeline);
}

const row = (task: TaskId) =>
  fixture.ledger.task.findUniqueOrThrow({ where: { id: task }, include: { vms: { orderBy: { node: 'asc' } }, lease: true } });
const events = async (task: TaskId) =>
  (await fixture.ledger.event.findMany({ where: { subject: task }, orderBy: { seq: 'asc' } })).map((event) =>
    event.type.replace('berth.task.', ''),
  );

/** Everything that clients can see, to compare before and after a repeat. */
async function everything(): Promise<unknown> {
  const tables = ['Task', 'Vm', 'Lease', 'Host', 'HostImage', 'Event', 'File', 'Network'];
  return Promise.all(tables.map((table) => fixture.sql(`SELECT to_jsonb(t) AS row FROM "${table}" t ORDER BY 1`)));
}

describe('a task that succeeds', () => {
  it('writes its events once each, in their order and shape', async () => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    await fixture.activities.finishTask(task, outcome(), []);
    expect(await events(task)).toEqual(['accepted', 'started', 'succeeded']);
    for (const event of await fixture.ledger.event.findMany({ where: { subject: task } })) {
      expect(event.id).toBe(`${task}/${event.type}`);
      expect(taskEventData[event.type as keyof typeof taskEventData].parse(event.data)).toEqual(event.data);
    }
  });

  it('is billed for the resources of its VMs while they existed', async () => {
    const { task, vms } = await placed({ nodes: 3, resources: { vcpus: 2, memoryMiB: 512, diskMiB: 100 } });
    await advance(task, 'stagingOut');
    const times = [
      { startedAt: at(0), endedAt: at(10.5) },
      { startedAt: at(1), endedAt: at(2.25) },
      { startedAt: null, endedAt: null },
    ];
    await fixture.activities.finishTask(
      task,
      outcome({ bytesIn: 123, bytesOut: 45, vms: vms.map((vm, i) => ({ id: vm.id, ...(times[i] as (typeof times)[number]) })) }),
      [],
    );
    const event = await fixture.ledger.event.findFirstOrThrow({ where: { id: `${task}/berth.task.succeeded` } });
    const data = TaskEndedData.parse(event.data);
    expect(data).toMatchObject({
      task,
      owner,
      state: 'succeeded',
      exitCode: 0,
      bytesIn: 123,
      bytesOut: 45,
      vcpuSeconds: 23.5,
      memoryMiBSeconds: 6016,
    });
    expect(data.usage).toEqual([
      {
        vm: vms[0]?.id,
        host: 'a',
        provider: 'site',
        vcpus: 2,
        memoryMiB: 512,
        ...times[0],
        vcpuSeconds: 21,
        memoryMiBSeconds: 5376,
      },
      {
        vm: vms[1]?.id,
        host: 'a',
        provider: 'site',
        vcpus: 2,
        memoryMiB: 512,
        ...times[1],
        vcpuSeconds: 2.5,
        memoryMiBSeconds: 640,
      },
    ]);
    const after = await row(task);
    expect(after.vms.map((vm) => vm.startedAt?.toISOString())).toEqual([at(0), at(1), after.startedAt?.toISOString()]);
    expect(after.lease.endedAt).toEqual(after.finishedAt);
  });

  it('keeps the outputs that it names and discards the others', async () => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    const file = (id: string, taskId: string | null) =>
      fixture.ledger.file.create({
        data: {
          id,
          ownerId: owner,
          name: id,
          state: 'ready',
          sizeBytes: 5n,
          sha256: hex64,
          taskId,
          node: taskId === null ? null : 0,
        },
      });
    await file('file_kept', task);
    await file('file_left', task);
    await file('file_mine', null);
    await fixture.activities.finishTask(
      task,
      outcome({ outputs: [{ path: 'out/count', node: 0, file: 'file_kept', sizeBytes: 5, sha256: hex64 }] }),
      [],
    );
    expect((await fixture.ledger.file.findMany({ orderBy: { id: 'asc' } })).map((kept) => kept.id)).toEqual([
      'file_kept',
      'file_mine',
    ]);
    expect((await fixture.ledger.owner.findUniqueOrThrow({ where: { id: owner } })).usedBytes).toBe(10n);
    expect((await row(task)).outputs).toEqual([{ path: 'out/count', node: 0, file: 'file_kept', sizeBytes: 5, sha256: hex64 }]);
  });
});

/** An answer, but for the expiry and signature of its URLs. */
const withoutRights = (answer: unknown) => JSON.stringify(answer ?? null).replaceAll(/\?expires=[^"]*/g, '');

describe('each step', () => {
  it('may be repeated', async () => {
    const { activities } = fixture;
    const task = await accept(fixture, owner, { nodes: 2 });
    const vmIds = (await activities.loadTask(task)).vmIds;
    const file = {
      id: 'file_left',
      ownerId: owner,
      name: 'f',
      state: 'ready' as const,
      sizeBytes: 5n,
      sha256: hex64,
      taskId: task,
      node: 0,
    };
    await fixture.ledger.file.create({ data: file });
    const end = outcome({ vms: vmIds.map((id) => ({ id, startedAt: at(0), endedAt: at(2) })) });
    const steps: (() => Promise<unknown>)[] = [
      () => activities.loadTask(task),
      () => activities.reserveTask(task),
      () => activities.advanceTask(task, 'stagingIn', timeline),
      () => activities.requeueTask(task),
      () => activities.reserveTask(task),
      () => activities.advanceTask(task, 'stagingIn', timeline),
      () => activities.issueTaskStepArgs(task, vmIds[0] as VmId),
      () => activities.advanceTask(task, 'starting', timeline, 'creating'),
      () => activities.advanceTask(task, 'running', timeline, 'running'),
      () => activities.markHostUnreachable('a' as HostId),
      () => activities.advanceTask(task, 'stagingOut', timeline, 'removing'),
      () => activities.setVmState(vmIds[0] as VmId, 'stuck', { code: 'ambiguous', message: 'why' }),
      () => activities.finishTask(task, end, vmIds.slice(1)),
      () => activities.releaseVms(vmIds),
      () => activities.sweepExpiredRows(),
    ];
    for (const step of steps) {
      const first = await step();
      const before = await everything();
      // The clock advances between an attempt and its repeat, which must not change what was written.
      fixture.now += 60_000;
      const second = await step();
      expect(await everything()).toEqual(before);
      expect(withoutRights(second)).toBe(withoutRights(first));
    }
    expect(await events(task)).toEqual(['accepted', 'started', 'succeeded']);
    expect((await usage(fixture)).map((host) => host.said)).toEqual([[0, 0, 0]]);
    expect((await row(task)).vms.map((vm) => [vm.state, vm.generation])).toEqual([
      ['removed', 2],
      ['removed', 2],
    ]);
  });

  it('may run many times at once', async () => {
    const { task, vms } = await placed();
    const ids = vms.map((vm) => vm.id);
    const at10 = <T>(act: () => Promise<T>) => Promise.all(Array.from({ length: 10 }, act));
    await at10(() => fixture.activities.reserveTask(task));
    await at10(() => fixture.activities.advanceTask(task, 'stagingIn', timeline));
    await at10(() => fixture.activities.advanceTask(task, 'starting', timeline, 'creating'));
    await at10(() => fixture.activities.advanceTask(task, 'running', timeline, 'running'));
    await at10(() => fixture.activities.advanceTask(task, 'stagingOut', timeline, 'removing'));
    await at10(() => fixture.activities.finishTask(task, outcome(), []));
    await at10(() => fixture.activities.releaseVms(ids));
    expect(await events(task)).toEqual(['accepted', 'started', 'succeeded']);
    expect((await row(task)).vms[0]).toMatchObject({ state: 'removed', generation: 1 });
  });

  it('refuses unknown ids', async () => {
    const none = 'task_none' as TaskId;
    const { activities } = fixture;
    for (const act of [
      () => activities.loadTask(none),
      () => activities.reserveTask(none),
      () => activities.requeueTask(none),
      () => activities.advanceTask(none, 'running', []),
      () => activities.finishTask(none, outcome(), []),
      () => activities.issueTaskStepArgs(none, 'vm_none' as VmId),
      () => activities.setVmState('vm_none' as VmId, 'running'),
      () => activities.markHostUnreachable('none' as HostId),
      () => activities.recordImageCached('a' as HostId, 'image_none' as ImageId),
    ])
      expect(await failure(act())).toMatchObject({ code: 'not-found' });
  });
});

describe('advanceTask', () => {
  it('refuses an illegal transition, and changes nothing', async () => {
    const { task } = await placed();
    const before = await everything();
    expect(await failure(fixture.activities.advanceTask(task, 'running', timeline, 'running'))).toMatchObject({
      code: 'conflict',
    });
    expect(await everything()).toEqual(before);
  });

  it('changes only the VMs that can enter the state', async () => {
    const { task, vms } = await placed({ nodes: 2 });
    await advance(task, 'starting');
    await fixture.activities.setVmState(vms[1]?.id as VmId, 'stuck', { code: 'boot-failed', message: 'no answer' });
    await fixture.activities.advanceTask(task, 'starting', timeline, 'removing');
    await fixture.activities.setVmState(vms[1]?.id as VmId, 'stuck', { code: 'ambiguous', message: 'still there' });
    expect((await row(task)).vms.map((vm) => [vm.state, vm.problem])).toEqual([
      ['removing', null],
      ['stuck', { code: 'ambiguous', message: 'still there' }],
    ]);
    // A VM leaves `stuck` again by an operator's repair.
    await fixture.activities.setVmState(vms[1]?.id as VmId, 'removing');
    expect((await row(task)).vms[1]?.problem).toBeNull();
  });

  it.each(terminalTaskStates)('does not change a task that has %s', async (state) => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    await fixture.activities.finishTask(task, outcome({ state }), []);
    const before = await everything();
    await fixture.activities.advanceTask(task, 'running', [], 'running');
    expect(await everything()).toEqual(before);
  });
});

describe('requeueTask', () => {
  it('releases the placement and keeps the age', async () => {
    const { task, vms } = await placed({ resources: { ...roomy } });
    const waiting = await accept(fixture, owner);
    await fixture.activities.advanceTask(task, 'stagingIn', timeline);
    await fixture.activities.markHostUnreachable('a' as HostId);
    expect(await fixture.activities.requeueTask(task)).toEqual([]);
    expect(await row(task)).toMatchObject({
      state: 'queued',
      placedAt: null,
      lease: { startedAt: null },
      vms: [{ state: 'pending' }],
    });
    expect((await usage(fixture))[0]?.said).toEqual([0, 0, 0]);
    // The oldest still comes first, and the earlier placement is distinguished by its generation.
    expect(await fixture.activities.registerHost(hostFacts('b', roomy))).toEqual([task]);
    const again = await fixture.activities.reserveTask(task);
    expect(again).toMatchObject({ placed: true, vms: [{ id: vms[0]?.id, host: 'b', generation: 2 }] });
    expect((await fixture.activities.reserveTask(waiting)).placed).toBe(false);
  });

  it('refuses a task whose VMs were created', async () => {
    const { task } = await placed();
    await advance(task, 'starting');
    expect(await failure(fixture.activities.requeueTask(task))).toMatchObject({ code: 'conflict' });
    expect((await row(task)).state).toBe('starting');
  });
});

describe('a value that no repetition can make fit', () => {
  // PostgreSQL's class 22, in a transaction, and in a statement of its own.
  it.each([99_999_999_999, 2 ** 31])('is refused for good: the exit code %d', async (exitCode) => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    const refused = { code: 'ledger-refused', retryable: false };
    expect(await failure(fixture.activities.finishTask(task, outcome({ exitCode }), []))).toMatchObject(refused);
    expect((await row(task)).state).toBe('stagingOut');
  });

  it('is refused for good where it is no text', async () => {
    const { vms } = await placed();
    const why = { code: 'internal' as const, message: 'a NUL in it: \u0000' };
    const refused = { code: 'ledger-refused', retryable: false };
    expect(await failure(fixture.activities.setVmState(vms[0]!.id, 'stuck', why))).toMatchObject(refused);
  });
});

describe('finishTask', () => {
  it('releases the VMs of which nothing is left, and returns what was placed there', async () => {
    const { task, vms } = await placed({ resources: { ...roomy } });
    const waiting = await accept(fixture, owner);
    expect((await fixture.activities.reserveTask(waiting)).placed).toBe(false);
    await advance(task, 'stagingOut');
    const free = vms.map((vm) => vm.id);
    expect(await fixture.activities.finishTask(task, outcome(), free)).toEqual([waiting]);
    expect(await row(task)).toMatchObject({ state: 'succeeded', vms: [{ state: 'removed' }] });
    expect((await fixture.activities.reserveTask(waiting)).placed).toBe(true);
  });

  it('ends a task that was never placed', async () => {
    const task = await accept(fixture, owner, { resources: { ...roomy, vcpus: 8 } });
    await fixture.activities.finishTask(task, outcome({ state: 'cancelled', exitCode: null }), []);
    expect(await row(task)).toMatchObject({ state: 'cancelled', vms: [{ state: 'removed', hostId: null }] });
    const event = await fixture.ledger.event.findFirstOrThrow({ where: { id: `${task}/berth.task.cancelled` } });
    expect(event.data).toMatchObject({ usage: [], vcpuSeconds: 0, startedAt: null });
  });

  it('releases the placement of a task whose workflow had stopped waiting', async () => {
    const { task } = await placed();
    await fixture.activities.finishTask(task, outcome({ state: 'cancelled', exitCode: null }), []);
    expect((await row(task)).vms[0]?.state).toBe('removed');
    expect((await usage(fixture))[0]?.said).toEqual([0, 0, 0]);
  });

  it('leaves the capacity of a stuck VM allocated', async () => {
    const { task, vms } = await placed();
    await advance(task, 'running');
    await fixture.activities.setVmState(vms[0]?.id as VmId, 'stuck', { code: 'ambiguous', message: 'why' });
    const error = { code: 'vm-lost' as const, message: 'it disappeared' };
    await fixture.activities.finishTask(task, outcome({ state: 'failed', exitCode: null, error }), []);
    expect(await row(task)).toMatchObject({ state: 'failed', error, vms: [{ state: 'stuck' }] });
    expect((await usage(fixture))[0]?.said[0]).toBe(1);
    await fixture.activities.releaseVms([vms[0]?.id as VmId]);
    expect((await usage(fixture))[0]?.said[0]).toBe(0);
  });

  it('refuses another end than the first', async () => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    await fixture.activities.finishTask(task, outcome(), []);
    const other = fixture.activities.finishTask(task, outcome({ state: 'failed', exitCode: 1 }), []);
    expect(await failure(other)).toMatchObject({ code: 'conflict' });
    expect(await events(task)).toEqual(['accepted', 'started', 'succeeded']);
  });

  it('writes nothing when its event cannot be written', async () => {
    const { task } = await placed();
    await advance(task, 'stagingOut');
    await fixture.sql(`ALTER TABLE "Event" ADD CONSTRAINT "no_end" CHECK (type <> 'berth.task.succeeded') NOT VALID`);
    const before = await everything();
    await failure(fixture.activities.finishTask(task, outcome(), []));
    expect(await everything()).toEqual(before);
    await fixture.sql('ALTER TABLE "Event" DROP CONSTRAINT "no_end"');
    await fixture.activities.finishTask(task, outcome(), []);
    expect((await row(task)).state).toBe('succeeded');
  });

  it.each(taskStates.filter((state) => !(terminalTaskStates as readonly string[]).includes(state)))(
    'can fail from %s',
    async (state) => {
      const { task } = await placed();
      if (state !== 'queued') await advance(task, state);
      await fixture.activities.finishTask(task, outcome({ state: 'failed', exitCode: 3 }), []);
      expect(await row(task)).toMatchObject({ state: 'failed', exitCode: 3 });
    },
  );
});
