import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type FileBody, type Page, type Party, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
let file: FileBody;
beforeAll(async () => {
  api = await startApi();
  await api.addHost('host-a', { vcpus: 8, memoryMiB: 4096, diskMiB: 50_000 });
  await api.addHost('host-b', { vcpus: 4, memoryMiB: 2048, diskMiB: 50_000 });
  await api.addImage('debian-12');
  file = await api.put(api.alice, 'words', 'one two three');
});
afterAll(() => api.end());

const smallest = { image: 'debian-12', command: ['true'] };
const submit = (party: Party, json: unknown, headers: Record<string, string> = {}) =>
  api.call<TaskBody>(party, 'POST', '/v1/tasks', { json, headers });

describe('submitting', () => {
  test('a task is durable, has its event and is started when the request is answered', async () => {
    const spec = {
      name: 'encode-42',
      image: 'debian-12',
      command: ['sh', '-c', 'wc -l in/words > out/count'],
      env: { LANG: 'C' },
      inputs: [
        { path: 'in/words', file: file.id },
        { path: 'in/more', url: 'https://example.com/more', sha256: 'a'.repeat(64) },
      ],
      outputs: ['out/*'],
      resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 },
      nodes: 2,
      lease: { kind: 'bestEffort', durationS: 600 },
      timeoutS: 600,
    };
    const { status, body, headers } = await submit(api.alice, spec);
    expect(status).toBe(202);
    expect(headers.get('location')).toBe(`/v1/tasks/${body.id}`);
    const { outputs: outputPatterns, ...rest } = spec;
    expect(body).toMatchObject({
      ...rest,
      outputPatterns,
      outputs: [],
      owner: api.alice.ownerId,
      state: 'queued',
      workflowId: `task-${body.id}`,
      hosts: [],
      waiting: null,
    });
    expect(body.vms).toHaveLength(2);
    expect((await api.call(api.alice, 'GET', `/v1/tasks/${body.id}`)).body).toEqual(body);
    expect(await api.ledger.event.findMany({ where: { subject: body.id } })).toMatchObject([{ type: 'berth.task.accepted' }]);
    expect(api.workflows.requested.started).toContain(body.id);
  });

  test('an omitted field has its default', async () => {
    const { body } = await submit(api.alice, smallest);
    expect(body).toMatchObject({
      env: {},
      inputs: [],
      outputs: [],
      onMissingOutput: 'fail',
      nodes: 1,
      timeoutS: 600,
      resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 },
    });
  });

  test('a task is accepted while Temporal is unreachable', async () => {
    api.workflows.requested.away = true;
    const { status, body } = await submit(api.alice, smallest);
    api.workflows.requested.away = false;
    expect([status, body.state]).toEqual([202, 'queued']);
  });
});

describe('a body that is not a task', () => {
  const long = 'x'.repeat(600);
  test.each<[string, Record<string, unknown>, string]>([
    ['name', { name: '' }, '/name'],
    ['name', { name: '-x' }, '/name'],
    ['name', { name: 'x'.repeat(129) }, '/name'],
    ['image', { image: undefined }, '/image'],
    ['image', { image: 7 }, '/image'],
    ['command', { command: undefined }, '/command'],
    ['command', { command: 'true' }, '/command'],
    ['command', { command: [] }, '/command'],
    ['command', { command: [''] }, '/command'],
    ['command', { command: ['true', 1] }, '/command/1'],
    ['command', { command: ['a\u0000b'] }, '/command/0'],
    ['command', { command: ['\ud800'] }, '/command/0'],
    ['command', { command: Array(257).fill('x') }, '/command'],
    ['command', { command: ['x'.repeat(65_536)] }, '/command'],
    ['env', { env: [] }, '/env'],
    ['env', { env: { 'A-B': 'x' } }, '/env/A-B'],
    ['env', { env: { A: 1 } }, '/env/A'],
    ['env', { env: Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`A${i}`, ''])) }, '/env'],
    ['env', { env: { A: 'x'.repeat(32_768) } }, '/env'],
    ['inputs', { inputs: {} }, '/inputs'],
    ['inputs', { inputs: [{ path: 'a' }] }, '/inputs/0'],
    ['inputs', { inputs: [{ path: 'a', file: 'f', url: 'http://x/' }] }, '/inputs/0'],
    ['inputs', { inputs: [{ file: 'f' }] }, '/inputs/0/path'],
    ['inputs', { inputs: [{ path: '../a', file: 'f' }] }, '/inputs/0/path'],
    ['inputs', { inputs: [{ path: '/etc/passwd', file: 'f' }] }, '/inputs/0/path'],
    ['inputs', { inputs: [{ path: 'a/./b', file: 'f' }] }, '/inputs/0/path'],
    ['inputs', { inputs: [{ path: long, file: 'f' }] }, '/inputs/0/path'],
    ['inputs', { inputs: [{ path: 'a', url: 'ftp://x/' }] }, '/inputs/0/url'],
    ['inputs', { inputs: [{ path: 'a', url: 'file:///etc/passwd' }] }, '/inputs/0/url'],
    ['inputs', { inputs: [{ path: 'a', file: 'f', sha256: 'x' }] }, '/inputs/0/sha256'],
    ['inputs', { inputs: [{ path: 'a', file: 'f', mode: 1 }] }, '/inputs/0/mode'],
    [
      'inputs',
      {
        inputs: [
          { path: 'a', file: 'f' },
          { path: 'a', file: 'g' },
        ],
      },
      '/inputs',
    ],
    [
      'inputs',
      {
        inputs: [
          { path: 'a', file: 'f' },
          { path: 'a/b', file: 'g' },
        ],
      },
      '/inputs',
    ],
    ['inputs', { inputs: [{ path: 'a', url: 'https://example.com/a', mode: '4755' }] }, '/inputs/0/mode'],
    ['onMissingOutput', { onMissingOutput: 'ignore' }, '/onMissingOutput'],
    ['outputs', { outputs: 'out/*' }, '/outputs'],
    ['outputs', { outputs: ['../*'] }, '/outputs/0'],
    ['outputs', { outputs: ['/etc/shadow'] }, '/outputs/0'],
    ['outputs', { outputs: Array.from({ length: 101 }, (_, i) => `o${i}`) }, '/outputs'],
    ['resources', { resources: { vcpus: 0 } }, '/resources/vcpus'],
    ['resources', { resources: { vcpus: 1.5 } }, '/resources/vcpus'],
    ['resources', { resources: { memoryMiB: 64 } }, '/resources/memoryMiB'],
    ['resources', { resources: { memoryMiB: '256' } }, '/resources/memoryMiB'],
    ['resources', { resources: { diskMiB: 1 } }, '/resources/diskMiB'],
    ['resources', { resources: { gpus: 1 } }, '/resources/gpus'],
    ['nodes', { nodes: 0 }, '/nodes'],
    ['nodes', { nodes: 65 }, '/nodes'],
    ['lease', { lease: { kind: 'forever' } }, '/lease/kind'],
    ['lease', { lease: { durationS: 0 } }, '/lease/durationS'],
    ['timeoutS', { timeoutS: 0 }, '/timeoutS'],
    ['timeoutS', { timeoutS: 1e9 }, '/timeoutS'],
    ['timeoutS', { timeoutS: null }, '/timeoutS'],
    ['an unknown field', { shell: 'rm -rf' }, '/shell'],
  ])('%s: %j', async (_field, change, pointer) => {
    const { status, body } = await api.call(api.alice, 'POST', '/v1/tasks', { json: { ...smallest, ...change } });
    expect([status, body.code]).toEqual([400, 'bad-request']);
    expect(body.errors.map((error) => error.pointer)).toContain(pointer);
    expect(body.errors[0]?.detail).toMatch(/^found .*; expected |^found .*; Too |^found .*; Invalid /s);
  });

  test.each([
    ['[]', ''],
    ['"task"', ''],
    ['null', ''],
  ])('%s', async (text, pointer) => {
    const init = { body: text, headers: { 'content-type': 'application/json' } };
    const { status, body } = await api.call(api.alice, 'POST', '/v1/tasks', init);
    expect([status, body.errors[0]?.pointer]).toEqual([400, pointer]);
  });

  test.each<[string, number, string, string | Uint8Array, Record<string, string>]>([
    ['malformed JSON', 400, 'bad-request', '{"image": ', { 'content-type': 'application/json' }],
    ['no body', 415, 'unsupported-media-type', '', {}],
    ['a form', 415, 'unsupported-media-type', 'image=x', { 'content-type': 'application/x-www-form-urlencoded' }],
    ['an encoded body', 415, 'unsupported-media-type', '{}', { 'content-type': 'application/json', 'content-encoding': 'gzip' }],
    ['a charset other than UTF-8', 415, 'unsupported-media-type', '{}', { 'content-type': 'application/json; charset=latin1' }],
    ['a huge body', 413, 'too-large', `"${'x'.repeat(5_000_000)}"`, { 'content-type': 'application/json' }],
  ])('%s', async (_name, status, code, body, headers) => {
    const answer = await api.call(api.alice, 'POST', '/v1/tasks', { body, headers });
    expect([answer.status, answer.body.code]).toEqual([status, code]);
  });

  test('several errors are reported at once', async () => {
    const { body } = await api.call(api.alice, 'POST', '/v1/tasks', { json: { command: [], nodes: 0, x: 1 } });
    expect(body.errors.map(({ pointer }) => pointer).toSorted()).toEqual(['/command', '/image', '/nodes', '/x']);
  });
});

describe('an impossible task', () => {
  const refusedWith = async (json: unknown) => {
    const before = await api.ledger.task.count();
    const { status, body } = await api.call(api.alice, 'POST', '/v1/tasks', { json });
    expect(await api.ledger.task.count()).toBe(before);
    return [status, body.code, body.errors[0]?.pointer];
  };

  test('of an unknown image', async () => {
    expect(await refusedWith({ ...smallest, image: 'plan9' })).toEqual([422, 'image-unknown', '/image']);
  });

  test("of another owner's image", async () => {
    await api.addImage('private', api.bob);
    expect(await refusedWith({ ...smallest, image: 'private' })).toEqual([422, 'image-unknown', '/image']);
    expect((await submit(api.bob, { ...smallest, image: 'private' })).status).toBe(202);
  });

  test('of a file that does not exist, or belongs to another owner: the same answer', async () => {
    const foreign = await api.put(api.bob, 'secret', 'x');
    const [absent, others] = await Promise.all(
      ['file_00000000000000000000000000', foreign.id].map(async (id) => {
        const json = { ...smallest, inputs: [{ path: 'in', file: id }] };
        const { status, body } = await api.call(api.alice, 'POST', '/v1/tasks', { json });
        expect(status).toBe(422);
        return { ...body, errors: JSON.stringify(body.errors).replaceAll(id, 'ID'), requestId: '' };
      }),
    );
    expect(others).toEqual(absent);
    expect(absent).toMatchObject({ status: 422, code: 'file-unknown' });
  });

  test('of a file whose digest differs from that of the task', async () => {
    const json = { ...smallest, inputs: [{ path: 'in', file: file.id, sha256: '0'.repeat(64) }] };
    expect(await refusedWith(json)).toEqual([422, 'digest-mismatch', '/inputs/0/sha256']);
  });

  test.each([{ resources: { vcpus: 9 } }, { resources: { memoryMiB: 5000 } }, { resources: { diskMiB: 60_000 } }, { nodes: 64 }])(
    'larger than the site: %j',
    async (size) => {
      expect(await refusedWith({ ...smallest, ...size })).toEqual([422, 'does-not-fit', '/resources']);
    },
  );
});

describe('the queue is bounded', () => {
  test("by the owner's limit, exactly, for any number of concurrent requests", async () => {
    const few = await api.addOwner('few', 'client', { maxQueued: 3 });
    const answers = await Promise.all(Array.from({ length: 12 }, () => submit(few, smallest)));
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(3);
    const refused = answers.filter(({ status }) => status !== 202).map((answer) => JSON.parse(answer.text).code);
    expect(new Set(refused)).toEqual(new Set(['quota-exceeded']));
  });

  test("by the site's limit, with the time of the next attempt", async () => {
    const small = await startApi({ BERTH_MAX_QUEUED: '2' });
    try {
      await small.addImage('debian-12');
      const post = () => small.call(small.alice, 'POST', '/v1/tasks', { json: smallest });
      expect([(await post()).status, (await post()).status]).toEqual([202, 202]);
      const { status, body, headers } = await post();
      expect([status, body.code, headers.get('retry-after')]).toEqual([503, 'queue-full', '5']);
    } finally {
      await small.end();
    }
  });
});

describe('reading', () => {
  test('a list is filtered by state', async () => {
    const reader = await api.addOwner('reader', 'client');
    const [one, two] = [(await submit(reader, smallest)).body, (await submit(reader, smallest)).body];
    await api.advance(one.id, 'failed');
    const list = async (query: string) => {
      const { body } = await api.call<Page<TaskBody>>(reader, 'GET', `/v1/tasks${query}`);
      return body.items.map(({ id }) => id);
    };
    expect(await list('?state=queued')).toEqual([two.id]);
    expect(await list('?state=failed')).toEqual([one.id]);
    expect(await list('?state=running')).toEqual([]);
    expect(await list('')).toEqual([two.id, one.id]);
    expect((await api.call(reader, 'GET', '/v1/tasks?state=lost')).body.errors[0]?.pointer).toBe('query.state');
  });

  test('a task has the reason why it waits, and of its end', async () => {
    const { body } = await submit(api.alice, smallest);
    await api.ledger.task.update({ where: { id: body.id }, data: { refusal: { hosts: 3, failed: { memory: 3 } } } });
    const read = async () => (await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${body.id}`)).body;
    expect((await read()).waiting).toEqual({ hosts: 3, failed: { memory: 3 } });
    const outputs = [{ path: 'out/count', node: 0, file: file.id, sizeBytes: 13, sha256: file.sha256 }];
    const skippedOutputs = [{ path: 'out/huge', node: 0, reason: 'too-large', detail: 'it is' }];
    const timeline = [{ step: 'stageIn', startedAt: new Date().toISOString(), endedAt: null }];
    const error = { code: 'command-failed', message: 'exit code 3' };
    await api.ledger.task.update({
      where: { id: body.id },
      data: { exitCode: 3, error, outputs, skippedOutputs, skippedOutputsCount: 7, timeline },
    });
    await api.advance(body.id, 'failed');
    const ended = { state: 'failed', exitCode: 3, error, outputs, skippedOutputs, skippedOutputsCount: 7, timeline };
    expect(await read()).toMatchObject({ ...ended, waiting: null });
  });
});

describe('cancelling', () => {
  test('marks the task, notifies its workflow, and may be repeated', async () => {
    const { body } = await submit(api.alice, smallest);
    const first = await api.call<TaskBody>(api.alice, 'DELETE', `/v1/tasks/${body.id}`);
    expect([first.status, first.body.state]).toEqual([202, 'queued']);
    const again = await api.call<TaskBody>(api.alice, 'DELETE', `/v1/tasks/${body.id}`);
    expect([again.status, again.body.cancelRequestedAt]).toEqual([202, first.body.cancelRequestedAt]);
    expect(api.workflows.requested.cancelled.filter((id) => id === body.id)).toHaveLength(2);
  });

  test('does not change a task that has ended', async () => {
    const { body } = await submit(api.alice, smallest);
    await api.advance(body.id, 'stagingIn', 'failed');
    const answer = await api.call<TaskBody>(api.alice, 'DELETE', `/v1/tasks/${body.id}`);
    expect([answer.status, answer.body.state, answer.body.cancelRequestedAt]).toEqual([200, 'failed', null]);
    expect(api.workflows.requested.cancelled).not.toContain(body.id);
  });

  test('is recorded while Temporal is unreachable', async () => {
    const { body } = await submit(api.alice, smallest);
    api.workflows.requested.away = true;
    const answer = await api.call<TaskBody>(api.alice, 'DELETE', `/v1/tasks/${body.id}`);
    api.workflows.requested.away = false;
    expect(answer.status).toBe(202);
    expect(answer.body.cancelRequestedAt).not.toBeNull();
  });
});

describe('the log', () => {
  const append = (id: string, node: number, from: number, text: string) =>
    fetch(api.signed('PUT', `/internal/tasks/${id}/log/${node}`), {
      method: 'PUT',
      body: text,
      headers: { 'Content-Range': `bytes ${from}-${from + text.length - 1}/*` },
    });

  test('is read by node, and is empty before the first output', async () => {
    const { body } = await submit(api.alice, { ...smallest, nodes: 2 });
    const log = async (query: string) => {
      const answer = await api.fetch(api.alice, 'GET', `/v1/tasks/${body.id}/log${query}`);
      return [answer.status, answer.headers.get('content-type'), await answer.text()];
    };
    const plain = 'text/plain; charset=utf-8';
    expect(await log('')).toEqual([200, plain, '']);
    await append(body.id, 0, 0, 'zero\n');
    await append(body.id, 1, 0, 'one\n');
    expect(await log('')).toEqual([200, plain, 'zero\n']);
    expect(await log('?node=1')).toEqual([200, plain, 'one\n']);
    expect((await api.call(api.alice, 'GET', `/v1/tasks/${body.id}/log?node=2`)).status).toBe(404);
    expect((await api.call(api.alice, 'GET', `/v1/tasks/${body.id}/log?node=-1`)).status).toBe(400);
    expect((await api.call(api.alice, 'GET', `/v1/tasks/${body.id}/log?follow=yes`)).status).toBe(400);
  });

  test('is followed as it grows, to its end and no further', async () => {
    const { body } = await submit(api.alice, smallest);
    const headers = { authorization: `Bearer ${api.alice.key}` };
    const answer = await fetch(new URL(`/v1/tasks/${body.id}/log?follow=1`, api.base), { headers });
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    await append(body.id, 0, 0, 'first\n');
    expect((await reader.read()).value).toBe('first\n');
    await append(body.id, 0, 6, 'second\n');
    expect((await reader.read()).value).toBe('second\n');
    await append(body.id, 0, 13, 'last\n');
    await api.advance(body.id, 'failed');
    let rest = '';
    for (let next = await reader.read(); !next.done; next = await reader.read()) rest += next.value;
    expect(rest).toBe('last\n');
  });

  test('is no longer sent to a follower that has disconnected', async () => {
    const { body } = await submit(api.alice, smallest);
    const going = new AbortController();
    const url = new URL(`/v1/tasks/${body.id}/log?follow=1`, api.base);
    await fetch(url, { headers: { authorization: `Bearer ${api.alice.key}` }, signal: going.signal });
    going.abort();
    await vi.waitFor(
      async () => {
        const metrics = await (await fetch(new URL('/metrics', api.operatorsBase))).text();
        expect(metrics).toMatch(/route="\/v1\/tasks\/\{id\}\/log",status="aborted"/);
      },
      { timeout: 60_000 },
    );
  });
});
