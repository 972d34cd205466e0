import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ApiError, Berth, TaskError } from '../../sdk/client.ts';
import { type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
let berth: Berth;
beforeAll(async () => {
  api = await startApi();
  await api.addHost('host-a');
  await api.addImage('debian-12');
  berth = new Berth({ url: api.base, apiKey: api.alice.key, backoffMs: 10 });
});
afterAll(() => api.end());

const request = { image: 'debian-12', command: ['wc', '-w', 'in/words'] };
const started = (): string[] => api.workflows.requested.started;

/** The next task that is started. */
async function nextTask(known = started().length): Promise<string> {
  await expect.poll(() => started().length, { timeout: 10_000 }).toBeGreaterThan(known);
  return started()[known]!;
}

/** As if it ran on a host, up to its end. */
const toRunning = (id: string) => api.advance(id, 'stagingIn', 'starting', 'running');

test('a file is stored and read', async () => {
  const bytes = new Uint8Array(100_000).map((_, index) => index);
  const file = await berth.files.upload('ä b.bin', bytes);
  expect(file).toMatchObject({ name: 'ä b.bin', sizeBytes: 100_000, sha256: createHash('sha256').update(bytes).digest('hex') });
  expect(await berth.files.bytes(file.id)).toEqual(bytes);
  expect(await berth.files.get(file.id)).toEqual(file);
});

test('a task is run with its inputs, and its outputs are returned', async () => {
  const coming = nextTask();
  const running = berth.tasks.run({ ...request, inputs: { 'in/words': 'one two' }, outputs: ['out/*'] }, { everyMs: 50 });
  const id = await coming;
  const [input] = (await berth.call<{ inputs: { path: string; file: string }[] }>(`/v1/tasks/${id}`)).inputs;
  expect(input!.path).toBe('in/words');
  expect(new TextDecoder().decode(await berth.files.bytes(input!.file))).toBe('one two');
  await toRunning(id);
  const { id: file, sizeBytes, sha256 } = await api.put(api.alice, 'count', '2 in/words');
  const output = { path: 'out/count', node: 0, file, sizeBytes, sha256 };
  await api.ledger.task.update({ where: { id }, data: { outputs: [output] } });
  await api.advance(id, 'stagingOut', 'succeeded');
  const { state, outputs } = await running;
  expect([state, outputs.length]).toEqual(['succeeded', 1]);
  expect(outputs[0]).toMatchObject(output);
  expect(await outputs[0]!.text()).toBe('2 in/words');
});

test('a task that fails is a typed error', async () => {
  const coming = nextTask();
  const running = berth.tasks.run(request, { everyMs: 50 }).catch((error: unknown) => error);
  const id = await coming;
  await toRunning(id);
  await api.ledger.task.update({ where: { id }, data: { exitCode: 3 } });
  await api.advance(id, 'failed');
  const error = await running;
  expect(error).toBeInstanceOf(TaskError);
  expect(error).toMatchObject({
    message: `${id} failed with exit code 3`,
    code: 'failed',
    task: { id, state: 'failed', exitCode: 3 },
  });
});

test('a refusal is a typed error that says what to do', async () => {
  const error = await berth.tasks.run({ ...request, image: 'none' }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ApiError);
  expect(error).toMatchObject({
    status: expect.any(Number),
    code: expect.stringMatching(/^[a-z-]+$/),
    requestId: expect.any(String),
  });
  const stranger = new Berth({ url: api.base, apiKey: 'berth_no_key', attempts: 1 });
  await expect(stranger.tasks.get('task_1')).rejects.toMatchObject({ status: 401 });
});

test('a submission that is repeated with its key is one task', async () => {
  const json = { ...request, name: 'once' };
  const submit = () => berth.call<{ id: string }>('/v1/tasks', { method: 'POST', json, idempotencyKey: 'once' });
  expect((await submit()).id).toBe((await submit()).id);
});

test('a list is read over its pages, newest first', async () => {
  const files = [];
  for (const name of ['a', 'b', 'c', 'd', 'e']) files.push((await berth.files.upload(name, name)).id);
  const read = [];
  for await (const file of berth.files.list({ pageSize: 2 })) {
    read.push(file.id);
    if (read.length === 5) break;
  }
  expect(read).toEqual(files.reverse());
});

test('events continue after the one that was handled', async () => {
  for (let count = 0; count < 4; count += 1) await berth.tasks.submit(request);
  const stop = new AbortController();
  const all = [];
  for await (const event of berth.events()) {
    all.push(event);
    if (all.length === 4) break;
  }
  const rest = berth.events({ after: all[1]!.sequence, signal: stop.signal });
  expect([(await rest.next()).value.id, (await rest.next()).value.id]).toEqual([all[2]!.id, all[3]!.id]);
  const typed = berth.events({ type: 'berth.none', signal: stop.signal });
  const waiting = typed.next().catch((error: unknown) => error);
  setTimeout(() => stop.abort(new Error('enough')), 200);
  expect(await waiting).toMatchObject({ message: 'enough' });
});

test('a task is cancelled, and its end awaited', async () => {
  const { id } = await berth.tasks.submit(request);
  await berth.tasks.cancel(id);
  const waiting = berth.tasks.wait(id, { everyMs: 50 });
  await api.advance(id, 'cancelled');
  expect((await waiting).state).toBe('cancelled');
});
