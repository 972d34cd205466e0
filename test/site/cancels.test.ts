import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { onSharedSite } from './shared-site.ts';
import { expectNothingLeft, expectOneCompletion, type TestSite } from './the-site.ts';

let here: TestSite;
let bytes: string;
onSharedSite(async (site) => {
  here = site;
  bytes = await here.client.upload('bytes', randomBytes(48 * 2 ** 20));
});

const order = {
  image: 'debian-12',
  command: ['sh', '-c', 'cp in/bytes copy; sleep 3'],
  inputs: [] as { path: string; file: string }[],
  outputs: ['copy'],
  resources: { vcpus: 1, memoryMiB: 192, diskMiB: 256 },
};

async function cancelledWhile(phase: string): Promise<void> {
  const { id } = await here.client.submit({ ...order, inputs: [{ path: 'in/bytes', file: bytes }] });
  const seen = await here.client.until(id, [phase, 'succeeded']);
  const answer = await here.client.call('DELETE', `/v1/tasks/${id}`);
  expect([200, 202]).toContain(answer.status);
  const task = await here.client.over(id);
  // Only a task that had reached its last phase may have ended otherwise.
  if (seen.state === phase && phase !== 'stagingOut') expect(task.state, phase).toBe('cancelled');
  else expect(['cancelled', 'succeeded']).toContain(task.state);
  if (task.state === 'cancelled') expect(task.outputs).toEqual([]);
  await expectOneCompletion(here.client, task);
}

test('a task that is cancelled in a phase is undone, or had finished', async () => {
  await Promise.all(['stagingIn', 'starting', 'running', 'stagingOut'].map(cancelledWhile));
  await expectNothingLeft(here);
});

test('a task that is cancelled while it waits in the queue never reserves anything', async () => {
  const whole = { ...order, command: ['sleep', '60'], outputs: [], nodes: 1 };
  const { body } = await here.operator.call<{ items: { capacity: { memoryMiB: number } }[] }>('GET', '/v1/hosts');
  const memoryMiB = Math.max(...body.items.map(({ capacity }) => capacity.memoryMiB));
  const held = await here.client.submit({
    ...whole,
    nodes: 3,
    // More than half of any host: so each host runs one.
    resources: { ...order.resources, memoryMiB: Math.floor(memoryMiB / 2) + 1, vcpus: 1, diskMiB: 64 },
  });
  await here.client.until(held.id, ['running']);
  const waiting = await here.client.submit({ ...whole, resources: { ...order.resources, memoryMiB } });
  await expect
    .poll(async () => (await here.client.task(waiting.id)) as unknown, { timeout: 60_000 })
    .toMatchObject({
      state: 'queued',
      waiting: { hosts: 3, failed: { memory: 3 } },
    });
  await here.client.call('DELETE', `/v1/tasks/${waiting.id}`);
  const task = await here.client.over(waiting.id);
  expect(task).toMatchObject({ state: 'cancelled', timeline: [] });
  await here.client.call('DELETE', `/v1/tasks/${held.id}`);
  await here.client.over(held.id);
  await expectOneCompletion(here.client, task);
  await expectNothingLeft(here);
});
