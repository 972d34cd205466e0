import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { FakeRun } from '../../drivers/fake/host.ts';
import { BerthError } from '../../model/errors.ts';
import { taskLimits } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

vi.setConfig({ maxConcurrency: 12 });

const done: FakeRun = { exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } };
const programs: Record<string, FakeRun> = {
  work: done,
  fail: { ...done, exitCode: 3 },
  nothing: { ...done, files: {} },
  absent: { ...done, notStarted: 'no such program' },
  large: { ...done, files: { 'out/result': 'done\n', 'out/large': 'x'.repeat(17 * 2 ** 20) } },
  two: { ...done, files: { 'out/a': 'a', 'out/result': 'b' } },
  endless: { ...done, durationMs: endless },
  checkpoints: { ...done, durationMs: endless, early: { 'out/checkpoint': 'half of it' } },
};

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({ run: (_, [program]) => programs[program ?? ''] ?? done });
});
afterAll(() => site.stop());

async function end(order: Record<string, unknown>) {
  const id = await site.submit(order);
  await site.ended(id);
  await expectEverythingOrNothing(site, id);
  return (await rowsOf(site, id)).task;
}

test.concurrent('a task that succeeds reports the time of each of its steps', async () => {
  const task = await end({});
  expect(task).toMatchObject({ state: 'succeeded', exitCode: 0, error: null });
  const timeline = task.timeline as { step: string; startedAt: string; endedAt: string }[];
  expect(timeline.map(({ step }) => step)).toEqual(['stageIn', 'create', 'boot', 'run', 'stageOut', 'destroy']);
  const times = timeline.flatMap(({ startedAt, endedAt }) => [startedAt, endedAt]);
  expect(times).toEqual([...times].sort());
});

test.concurrent('a command that exits with 3 is a failed task with its outputs', async () => {
  const task = await end({ command: ['fail'] });
  expect(task).toMatchObject({ state: 'failed', exitCode: 3, error: { code: 'command-failed' } });
  expect(task.outputs).toMatchObject([{ path: 'out/result' }]);
});

test.concurrent('a pattern that matches nothing fails the task, and the matches of the others are stored', async () => {
  const task = await end({ outputs: ['out/*', 'absent/*'] });
  expect(task).toMatchObject({ state: 'failed', exitCode: 0, error: { code: 'output-missing' } });
  expect((task.error as { message: string }).message).toContain('absent/*');
  expect(task.outputs).toMatchObject([{ path: 'out/result' }]);
});

test.concurrent('an output that can not be stored fails the task, which has the others and the reason', async () => {
  const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 16 };
  const task = await end({ command: ['large'], resources });
  expect(task).toMatchObject({
    state: 'failed',
    exitCode: 0,
    error: { code: 'outputs-refused', message: expect.stringContaining('out/large') },
    outputs: [{ path: 'out/result' }],
    skippedOutputs: [{ path: 'out/large', node: 0, reason: 'too-large' }],
    skippedOutputsCount: 1,
  });
});

test.concurrent('a task that does without outputs succeeds, and has the same reasons', async () => {
  const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 16 };
  const outputs = ['out/*', 'absent/*'];
  const task = await end({ command: ['large'], resources, outputs, onMissingOutput: 'warn' });
  expect(task).toMatchObject({ state: 'succeeded', exitCode: 0, error: null, outputs: [{ path: 'out/result' }] });
  expect(task.skippedOutputs).toMatchObject([{ path: 'out/large', reason: 'too-large' }]);
});

test.concurrent('a task may have no outputs', async () => {
  const id = await site.submit({ command: ['nothing'], outputs: [] });
  expect(await site.ended(id)).toBe('succeeded');
  expect((await rowsOf(site, id)).task.outputs).toEqual([]);
});

test.concurrent('a program that does not exist fails the task with its own error', async () => {
  expect(await end({ command: ['absent'] })).toMatchObject({
    state: 'failed',
    exitCode: null,
    error: { code: 'command-not-started' },
  });
});

test.concurrent('a command is stopped after timeoutS', async () => {
  expect(await end({ command: ['endless'], timeoutS: 5, outputs: [] })).toMatchObject({
    state: 'failed',
    exitCode: null,
    error: { code: 'task-timeout' },
  });
});

test.concurrent('a task ends with its lease', async () => {
  const order = { command: ['endless'], timeoutS: 7 * 24 * 3600, lease: { kind: 'bestEffort', durationS: 2 } };
  expect(await end(order)).toMatchObject({ state: 'failed', exitCode: null, error: { code: 'lease-expired' } });
});

test.concurrent('a running task is cancelled', async () => {
  const id = await site.submit({ command: ['endless'], timeoutS: 7 * 24 * 3600 });
  await site.until('it runs', async () => (await rowsOf(site, id)).task.state === 'running');
  await site.cancel(id);
  expect(await site.ended(id)).toBe('cancelled');
  await expectEverythingOrNothing(site, id);
});

test.concurrent('operators find a running task by its owner, host and state, and read its progress', async () => {
  const id = await site.submit({ command: ['endless'], timeoutS: 7 * 24 * 3600, lease: { kind: 'bestEffort', durationS: 3600 } });
  await site.until('it runs', async () => (await rowsOf(site, id)).task.state === 'running');
  const host = (await rowsOf(site, id)).vms[0]!.hostId;
  const query = `BerthOwner = '${site.owner}' AND BerthHost = '${host}' AND BerthState = 'running'`;
  const found = async () => {
    for await (const workflow of site.client.workflow.list({ query }))
      if (workflow.workflowId === workflowId.task(id)) return true;
    return false;
  };
  await site.until('it is found', found);
  const details = await site.detailsOf(workflowId.task(id));
  expect(details).toContain(`**run** on ${host} since`);
  expect(details).toContain('0 of 1 done');
  expect(details).toMatch(/ends by \d{4}-.* at the latest/);
  await site.cancel(id);
  expect(await site.ended(id)).toBe('cancelled');
});

/** Two nodes, each with what it had written. */
const checkpoints = [
  { path: 'out/checkpoint', node: 0, sizeBytes: 10 },
  { path: 'out/checkpoint', node: 1, sizeBytes: 10 },
];
const kept = { command: ['checkpoints'], nodes: 2, keepOutputs: true };

test.concurrent('a task that is cancelled has the outputs that it wants to keep', async () => {
  const id = await site.submit(kept);
  await site.until('both commands run', async () => {
    const { vms } = await rowsOf(site, id);
    return vms.length === 2 && vms.every((vm) => site.hosts.some((host) => host.jobsStarted.has(vm.id)));
  });
  await site.cancel(id);
  expect(await site.ended(id)).toBe('cancelled');
  await expectEverythingOrNothing(site, id);
  expect((await rowsOf(site, id)).task).toMatchObject({
    error: null,
    exitCode: null,
    outputs: checkpoints,
    skippedOutputsCount: 0,
  });
});

test.concurrent('a task whose lease ends has the outputs that it wants to keep', async () => {
  // Long enough for both commands to begin on a machine with other work.
  const lease = { kind: 'bestEffort', durationS: 8 };
  const task = await end({ ...kept, timeoutS: 7 * 24 * 3600, lease });
  expect(task).toMatchObject({ state: 'failed', error: { code: 'lease-expired' }, outputs: checkpoints });
});

test.concurrent('a file that its guest removes between two attempts to store the outputs is none', async () => {
  const id = await site.submit({ command: ['two'] });
  let removed = false;
  for (const { ports, disks } of site.hosts) {
    const { storeOutput } = ports.repository;
    ports.repository.storeOutput = async (url, path, ...rest) => {
      const stored = await storeOutput(url, path, ...rest);
      if (removed || path !== 'out/result' || !url.includes(id)) return stored;
      const known = { taskId: id, name: 'out/a' };
      await site.until('the other is stored', async () => (await site.ledger.file.count({ where: known })) === 1);
      const disk = disks.get(ports.store.paths((await rowsOf(site, id)).vms[0]!.id).data);
      removed = disk?.kind === 'data' && disk.files.delete('out/a');
      throw new BerthError('repository-unavailable', 'the answer was lost');
    };
  }
  expect(await site.ended(id)).toBe('succeeded');
  expect([removed, (await rowsOf(site, id)).task.outputs]).toMatchObject([true, [{ path: 'out/result' }]]);
  await expectEverythingOrNothing(site, id);
});

test.concurrent('a task with as many nodes as it may have ends as others do', async () => {
  const resources = { vcpus: 1, memoryMiB: 128, diskMiB: 16 };
  const task = await end({ nodes: taskLimits.nodes, resources });
  expect(task).toMatchObject({ state: 'succeeded', error: null });
  expect(task.outputs).toHaveLength(taskLimits.nodes);
});

test.concurrent('a task that was cancelled before its workflow began ends as cancelled', async () => {
  const id = await site.accept();
  await site.ledger.task.update({ where: { id }, data: { cancelRequestedAt: new Date() } });
  await site.start(id);
  expect(await site.ended(id)).toBe('cancelled');
  await expectEverythingOrNothing(site, id);
});

test.concurrent.each(['stageIn', 'runCommand', 'stageOut'])(
  'when the signed URLs of its request have expired, %s gets new ones',
  async (name) => {
    const id = await site.accept();
    site.faults.plan(workflowId.task(id), { name, nth: 1 }, 'refusedAfter', 'forbidden');
    await site.start(id);
    expect(await site.ended(id)).toBe('succeeded');
    expect(site.faults.callsOf(workflowId.task(id))).toContainEqual({ name, nth: 2 });
    await expectEverythingOrNothing(site, id);
  },
);

test.concurrent('twelve tasks at once all succeed', async () => {
  const ids = await Promise.all(Array.from({ length: 12 }, () => site.submit()));
  expect(await Promise.all(ids.map((id) => site.ended(id)))).toEqual(ids.map(() => 'succeeded'));
  for (const id of ids) await expectEverythingOrNothing(site, id);
});

test('afterwards the site is empty', () => expectEmptySite(site));
