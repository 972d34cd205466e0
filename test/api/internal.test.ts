import { createHash, randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { sweepLogSizes } from '../../ledger/files/logs.ts';
import { newId } from '../../model/ids.ts';
import { hostKeyOf } from '../../model/repository/host-key.ts';
import { signingKeyId, signUrl } from '../../model/signed-url.ts';
import { collect, type FileBody, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
let task: TaskBody;
beforeAll(async () => {
  api = await startApi({ BERTH_QUOTA_BYTES: '2000000' });
  await api.addImage('debian-12');
});
afterAll(() => api.end());
beforeEach(async () => {
  const json = { image: 'debian-12', command: ['true'], nodes: 2 };
  task = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body;
});

const sha256 = (bytes: string | Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const codeOf = async (answer: Response) => ((await answer.json()) as ProblemBody).code;

describe('a signed URL', () => {
  let file: FileBody;
  let path: string;
  beforeAll(async () => {
    file = await api.put(api.alice, 'in', 'some words');
    path = `/internal/files/${file.id}`;
  });

  test('opens one file, complete or in ranges, without a key', async () => {
    const url = api.signed('GET', path);
    expect(await (await fetch(url)).text()).toBe('some words');
    const range = await fetch(url, { headers: { Range: 'bytes=5-' } });
    expect([range.status, await range.text()]).toEqual([206, 'words']);
  });

  test.each<[string, () => string]>([
    ['without a signature', () => `${api.base}${path}`],
    ['for another path', () => api.signed('GET', `/internal/files/file_x`).replace('file_x', file.id)],
    ['for another method', () => api.signed('PUT', path)],
    ['by another key', () => signUrl('another key', api.base, 'GET', path, Date.now(), 60)],
    ['that names another key', () => api.signed('GET', path).replace(/key=\w+/, `key=${signingKeyId('another key')}`)],
    ['with two ids of keys', () => `${api.signed('GET', path)}&key=x`],
    ['that has expired', () => api.signed('GET', path, -2)],
    ['whose expiry was moved', () => api.signed('GET', path, 1).replace(/expires=\d+/, `expires=${Date.now()}`)],
    ['that is given twice', () => `${api.signed('GET', path)}&signature=x`],
    ['with an empty signature', () => `${api.base}${path}?expires=9999999999&signature=`],
  ])('%s opens nothing', async (_name, url) => {
    const answer = await fetch(url());
    expect([answer.status, await codeOf(answer)]).toEqual([403, 'forbidden']);
  });

  test('without the id of a key, as the version before signed them, opens the file', async () => {
    expect((await fetch(api.signed('GET', path).replace(/key=\w+&/, ''))).status).toBe(200);
  });

  test('by either of two keys opens the file, while one replaces the other', async () => {
    const [before, after] = ['the key of yesterday'.padEnd(32, '.'), 'the key of tomorrow'.padEnd(32, '.')];
    const rotating = await startApi({ BERTH_SIGNING_KEY: after, BERTH_SIGNING_KEY_OTHER: before });
    try {
      const { id } = await rotating.put(rotating.alice, 'in', 'words');
      const status = async (key: string) =>
        (await fetch(signUrl(key, rotating.base, 'GET', `/internal/files/${id}`, Date.now(), 60))).status;
      expect([await status(before), await status(after), await status('a third one'.padEnd(32, '.'))]).toEqual([200, 200, 403]);
    } finally {
      await rotating.end();
    }
  });

  test('an API key is no signature', async () => {
    const answer = await fetch(`${api.base}${path}`, { headers: { authorization: `Bearer ${api.operator.key}` } });
    expect(answer.status).toBe(403);
  });

  test('a file that does not exist is a 404', async () => {
    expect((await fetch(api.signed('GET', '/internal/files/file_x'))).status).toBe(404);
  });
});

describe('outputs', () => {
  const store = (node: number, path: string, body: string | Uint8Array, query = '') =>
    fetch(`${api.signed('POST', `/internal/tasks/${task.id}/outputs/${node}`)}&path=${encodeURIComponent(path)}${query}`, {
      method: 'POST',
      body,
    });
  type Stored = { file: string; sizeBytes: number; sha256: string };
  const stored = async (answer: Promise<Response>) => (await (await answer).json()) as Stored;

  test("are files of the task's owner", async () => {
    const bytes = randomBytes(100_000);
    const output = await stored(store(0, 'out/count', bytes));
    expect(output).toMatchObject({ sizeBytes: 100_000, sha256: sha256(bytes) });
    const { body } = await api.call<FileBody>(api.alice, 'GET', `/v1/files/${output.file}`);
    expect(body).toMatchObject({ name: 'out/count', owner: api.alice.ownerId, sha256: sha256(bytes) });
    expect((await api.call(api.bob, 'GET', `/v1/files/${output.file}`)).status).toBe(404);
  });

  test('retain their id when they are stored again, with the same bytes or others; the last bytes remain', async () => {
    const one = await stored(store(0, 'out/a', 'one'));
    expect(await stored(store(0, 'out/a', 'one'))).toEqual(one);
    const two = await stored(store(0, 'out/a', 'two!'));
    expect(two).toEqual({ file: one.file, sizeBytes: 4, sha256: sha256('two!') });
    expect(await (await api.fetch(api.alice, 'GET', `/v1/files/${one.file}/content`)).text()).toBe('two!');
    const kept = (await collect(api.repository.bytes.files())).filter(({ fileId }) => fileId === one.file);
    expect(kept.map((bytes) => bytes.sha256)).toEqual([sha256('two!')]);
    expect(await api.ledger.file.count({ where: { taskId: task.id } })).toBe(1);
  });

  test('are of the attempt that stored them last, with the same bytes or others', async () => {
    const url = `${api.signed('POST', `/internal/tasks/${task.id}/outputs/0`)}&path=`;
    const storeBy = (attempt: string, path: string, body: string) =>
      fetch(`${url}${path}`, { method: 'POST', body, headers: { 'Berth-Attempt': attempt } });
    for (const path of ['same', 'other', 'gone']) expect((await storeBy('first', path, 'x')).status).toBe(201);
    await storeBy('second', 'same', 'x');
    await storeBy('second', 'other', 'y');
    const rows = await api.ledger.file.findMany({ where: { taskId: task.id }, orderBy: { name: 'asc' } });
    expect(rows.map(({ name, attempt }) => [name, attempt])).toEqual([
      ['gone', 'first'],
      ['other', 'second'],
      ['same', 'second'],
    ]);
    expect((await storeBy('no attempt!', 'same', 'x')).status).toBe(400);
    // A host of an earlier version says none.
    await fetch(`${url}gone`, { method: 'POST', body: 'y' });
    expect(await api.ledger.file.findFirst({ where: { taskId: task.id, name: 'gone' } })).toMatchObject({ attempt: null });
  });

  test('of several nodes and paths are distinct', async () => {
    const all = await Promise.all([stored(store(0, 'o', 'a')), stored(store(1, 'o', 'b')), stored(store(0, 'o/x', 'c'))]);
    expect(new Set(all.map(({ file }) => file)).size).toBe(3);
  });

  test('stored by two attempts at once are one file', async () => {
    const all = await Promise.all(Array.from({ length: 6 }, () => stored(store(0, 'raced', 'same bytes'))));
    expect(new Set(all.map(({ file }) => file)).size).toBe(1);
    expect(await api.ledger.file.count({ where: { taskId: task.id } })).toBe(1);
  });

  test('have the escaped text of their name', async () => {
    const [one, two] = await Promise.all([stored(store(0, 'out/a\\xff', 'a')), stored(store(0, 'out/a\\xfe\\x0a', 'b'))]);
    const { body } = await api.call<FileBody>(api.alice, 'GET', `/v1/files/${one.file}`);
    expect([body.name, one.file === two.file]).toEqual(['out/a\\xff', false]);
  });

  test.each(['../x', '/etc/passwd', 'a//b', '', 'a\\b', 'a\nb', 'a\\x41'])('a path like %j is refused', async (path) => {
    expect((await store(0, path, 'x')).status).toBe(400);
  });

  test('bytes that differ from their declaration are refused', async () => {
    const answer = await store(0, 'o', 'x', `&sha256=${sha256('y')}`);
    expect([answer.status, await codeOf(answer)]).toEqual([422, 'digest-mismatch']);
  });

  test("count against the owner's quota", async () => {
    const answer = await store(0, 'big', Buffer.alloc(2_000_001));
    expect([answer.status, await codeOf(answer)]).toEqual([403, 'quota-exceeded']);
    expect(await api.ledger.file.count({ where: { taskId: task.id } })).toBe(0);
  });

  test('of a task that has ended, or does not exist, are refused and leave nothing', async () => {
    await api.advance(task.id, 'cancelled');
    const late = await store(0, 'late', 'x');
    expect([late.status, await codeOf(late)]).toEqual([409, 'conflict']);
    expect(
      (await fetch(`${api.signed('POST', '/internal/tasks/task_x/outputs/0')}&path=o`, { method: 'POST', body: 'x' })).status,
    ).toBe(404);
    expect(await api.ledger.file.count({ where: { state: 'uploading' } })).toBe(0);
    expect(await collect(api.repository.bytes.partials())).toEqual([]);
  });

  test('cannot be deleted while their task may still list them', async () => {
    const { file } = await stored(store(0, 'o', 'x'));
    expect((await api.call(api.alice, 'DELETE', `/v1/files/${file}`)).body.code).toBe('in-use');
    await api.advance(task.id, 'failed');
    expect((await api.fetch(api.alice, 'DELETE', `/v1/files/${file}`)).status).toBe(204);
  });
});

describe('a log', () => {
  const append = (from: number, text: string, range = `bytes ${from}-${from + text.length - 1}/*`) =>
    fetch(api.signed('PUT', `/internal/tasks/${task.id}/log/0`), {
      method: 'PUT',
      body: text,
      headers: { 'Content-Range': range },
    });
  const read = async () => (await api.fetch(api.alice, 'GET', `/v1/tasks/${task.id}/log`)).text();

  test('grows by ranges; existing bytes are not changed', async () => {
    expect(await (await append(0, 'abc')).json()).toEqual({ sizeBytes: 3 });
    expect(await (await append(3, 'def')).json()).toEqual({ sizeBytes: 6 });
    expect(await (await append(0, 'XXX')).json()).toEqual({ sizeBytes: 6 });
    expect(await (await append(2, 'XXXXgh')).json()).toEqual({ sizeBytes: 8 });
    expect(await read()).toBe('abcdefgh');
  });

  test('takes the same range many times at once', async () => {
    const text = 'x'.repeat(200_000);
    await Promise.all(Array.from({ length: 8 }, () => append(0, text)));
    expect(await read()).toBe(text);
  });

  test('returns its length when a range would leave a gap', async () => {
    await append(0, 'abc');
    const gap = await append(5, 'def');
    expect([gap.status, await gap.json()]).toMatchObject([409, { code: 'conflict', sizeBytes: 3 }]);
    expect(await read()).toBe('abc');
  });

  test.each(['', 'bytes 0-2', 'bytes 0-2/3', 'bytes 2-0/*', 'bytes 0-5/*', 'lines 0-2/*'])(
    'Content-Range: %j is refused',
    async (range) => {
      const answer = await append(0, 'abc', range);
      expect([answer.status, await codeOf(answer)]).toEqual([400, 'bad-request']);
    },
  );

  test('is bounded', async () => {
    const answer = await append(2 ** 30 - 1, 'abc');
    expect([answer.status, await codeOf(answer)]).toEqual([413, 'too-large']);
  });

  test('of an unknown task is a 404', async () => {
    const url = api.signed('PUT', '/internal/tasks/task_x/log/0');
    expect((await fetch(url, { method: 'PUT', body: 'x', headers: { 'Content-Range': 'bytes 0-0/*' } })).status).toBe(404);
  });
});

describe('a log and the quota of its owner', () => {
  const put = (from: number, text: string, node = 0) =>
    fetch(api.signed('PUT', `/internal/tasks/${task.id}/log/${node}`), {
      method: 'PUT',
      body: text,
      headers: { 'Content-Range': `bytes ${from}-${from + text.length - 1}/*` },
    });
  const read = async (query = '') => (await api.fetch(api.bob, 'GET', `/v1/tasks/${task.id}/log${query}`)).text();
  const usedBytes = async () => {
    const { quotas } = (await api.call<{ quotas: { bytes: { used: number } } }>(api.bob, 'GET', '/v1/me')).body;
    return quotas.bytes.used;
  };
  const notice = "\n[berth: output after this was not kept: its owner's quota of stored bytes is used up]\n";
  const setQuota = (maxBytes: bigint | null) => api.ledger.owner.update({ where: { id: api.bob.ownerId }, data: { maxBytes } });
  beforeEach(async () => {
    const json = { image: 'debian-12', command: ['true'], nodes: 2, outputs: ['out'] };
    task = (await api.call<TaskBody>(api.bob, 'POST', '/v1/tasks', { json })).body;
  });
  afterEach(() => setQuota(null));

  test('counts its bytes, once, above 64 KiB in steps of as much, and no more when it is swept', async () => {
    const before = await usedBytes();
    await put(0, 'x'.repeat(1000));
    await put(0, 'x'.repeat(1000));
    await put(0, 'y'.repeat(500), 1);
    expect((await usedBytes()) - before).toBe(1500);
    await put(1000, 'x'.repeat(99_000));
    expect((await usedBytes()) - before).toBe(2 * 65_536 + 500);
    await put(100_000, 'x'.repeat(30_000));
    expect((await usedBytes()) - before).toBe(2 * 65_536 + 500);
    await sweepLogSizes(api.ledger, [task.id]);
    expect(await usedBytes()).toBe(before);
  });

  test.each([
    ['its own', async (bytes: number) => void (await setQuota(BigInt(bytes)))],
    ['that of the site', async (bytes: number) => void (await fill(2_000_000 - bytes))],
  ])('ends where the quota, %s, is used up, says so, and is not refused', async (which, leave) => {
    await put(0, 'kept ');
    const used = await usedBytes();
    await leave(used + 3);
    for (const [from, text] of [
      [5, 'more'],
      [9, 'and more'],
      [17, '.'],
    ] as const) {
      const answer = await put(from, text);
      expect([answer.status, await answer.json()]).toEqual([200, { sizeBytes: from + text.length }]);
    }
    // A retry of its host from the begin, which finds what is there.
    expect(await (await put(0, 'kept more')).json()).toEqual({ sizeBytes: 9 });
    expect(await read()).toBe(`kept ${notice}`);
    await api.advance(task.id, 'failed');
    expect(await read('?follow=1')).toBe(`kept ${notice}`);
    expect(await usedBytes()).toBe(which === 'its own' ? used : 2_000_000 - 3);
  });

  /** Another file of this owner takes so much. */
  async function fill(bytes: number): Promise<void> {
    const used = await usedBytes();
    const id = newId('file');
    const row = { id, ownerId: api.bob.ownerId, name: 'large', state: 'ready' as const, sha256: sha256('') };
    await api.ledger.file.create({ data: { ...row, sizeBytes: BigInt(bytes) } });
    onTestFinished(async () => void (await api.ledger.file.delete({ where: { id } })));
    expect((await usedBytes()) - used).toBe(bytes);
  }

  test('without space for a byte has the notice alone', async () => {
    await setQuota(BigInt(await usedBytes()));
    await put(0, 'more');
    expect(await read()).toBe(notice);
  });

  test('is never above the quota, however many nodes write at once', async () => {
    const used = await usedBytes();
    await setQuota(BigInt(used + 2500));
    const answers = await Promise.all(Array.from({ length: 2 }, (_, node) => put(0, 'x'.repeat(2000), node)));
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
    expect(await usedBytes()).toBe(used + 2000);
    const logs = await Promise.all([read('?node=0'), read('?node=1')]);
    expect(logs.map((log) => log.length).sort((a, b) => a - b)).toEqual([notice.length, 2000]);
  });
});

describe('what a host needs for a step', () => {
  let vm: string;
  const host = 'orders-1';
  const get = (hostId: string, of: string, step: string, key: string, known = 'none') =>
    fetch(`${api.base}/internal/hosts/${hostId}/orders/${of}?step=${step}&hosts=${known}`, {
      headers: { authorization: `Bearer ${key}` },
    });
  const key = (hostId: string) => hostKeyOf(api.signingKey, hostId);

  beforeAll(async () => {
    await api.addHost(host);
    await api.addHost('orders-2');
    const file = await api.put(api.alice, 'in', 'some words');
    const json = {
      image: await bootable(),
      command: ['cat', 'in'],
      env: { A: 'b' },
      inputs: [{ path: 'in', file: file.id }],
      outputs: ['out/*'],
    };
    const placed = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body;
    vm = placed.vms[0]!;
    const network = { id: newId('network'), vni: 7, cidr: '10.128.0.0/22', gateway: '10.128.0.1' };
    await api.ledger.network.create({ data: { ownerId: api.alice.ownerId, ...network } });
    await api.ledger.vm.update({ where: { id: vm }, data: { address: '10.128.0.9', mac: '52:54:00:00:00:01' } });
    await api.runOn(vm, host);
  });

  /** An image with a disk, which a VM's host has to be told of. */
  async function bootable(): Promise<string> {
    const id = await api.addImage('bootable');
    const disk = { file: 'file_disk', sha256: 'a'.repeat(64), sizeBytes: 1 };
    await api.ledger.image.update({ where: { id }, data: { parts: { disk } } });
    return 'bootable';
  }

  test('is told to the host of a VM alone, by its own key', async () => {
    const answer = await get(host, `${vm}/1`, 'run', key(host));
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({
      vm: { id: vm, host, generation: 1, address: '10.128.0.9' },
      run: { command: ['cat', 'in'], env: { A: 'b', BERTH_NODE: '0' }, logUrl: expect.stringContaining('/log/0?') },
    });
    expect((await get(host, `${vm}/1`, 'run', key('orders-2'))).status).toBe(401);
    expect((await get(host, `${vm}/1`, 'run', api.operator.key)).status).toBe(401);
    expect((await get('orders-2', `${vm}/1`, 'run', key('orders-2'))).status).toBe(404);
    expect((await get(host, 'vm_x/1', 'run', key(host))).status).toBe(404);
  });

  test('has the list of machines when it has changed; so has the question for it alone', async () => {
    type Machines = { version: string; addresses: string[] | null; here: string };
    const withStep = async (known: string) =>
      ((await (await get(host, `${vm}/1`, 'vm', key(host), known)).json()) as { hosts: Machines }).hosts;
    const alone = async (known: string, of = host, by = key(host)) =>
      fetch(`${api.base}/internal/hosts/${of}/machines?known=${known}`, { headers: { authorization: `Bearer ${by}` } });
    const hosts = await api.ledger.host.findMany({ orderBy: { id: 'asc' } });
    const here = hosts.find(({ id }) => id === host)!.address;
    const first = await withStep('none');
    expect(first).toMatchObject({ addresses: hosts.map(({ address }) => address), here });
    const { version } = first;
    expect(await withStep(version)).toMatchObject({ version, addresses: null, here });
    expect(await (await alone('none')).json()).toEqual(first);
    expect(await (await alone(version)).json()).toMatchObject({ version, addresses: null, here });
    await api.addHost('orders-3');
    const changed = (await (await alone(version)).json()) as Machines;
    expect([changed.addresses?.length, changed.version === version]).toEqual([hosts.length + 1, false]);
    expect((await alone('none', host, key('orders-2'))).status).toBe(401);
    expect((await alone('none', host, api.operator.key)).status).toBe(401);
  });

  test('has URLs that open what they name', async () => {
    const { stageIn } = (await (await get(host, `${vm}/1`, 'stageIn', key(host))).json()) as {
      stageIn: { inputs: { url: string }[] };
    };
    const url = new URL(stageIn.inputs[0]!.url);
    expect(await (await fetch(`${api.base}${url.pathname}${url.search}`)).text()).toBe('some words');
    const { stageOut } = (await (await get(host, `${vm}/1`, 'stageOut', key(host))).json()) as { stageOut: unknown };
    expect(stageOut).toMatchObject({ patterns: ['out/*'], uploadUrl: expect.stringContaining('/outputs/0?') });
  });

  test('is not told of a placement that is over', async () => {
    const answer = await get(host, `${vm}/0`, 'vm', key(host));
    expect([answer.status, await codeOf(answer)]).toEqual([409, 'stale-generation']);
  });
});
