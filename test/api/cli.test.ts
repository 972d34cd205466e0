import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { searchedItems } from '../../cli/names.ts';
import { newId } from '../../model/ids.ts';
import { type FileBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

const build = fileURLToPath(new URL('../../infra/cli-package/build', import.meta.url));

let api: RunningApi;
let folder: string;
/** The bundled command: it starts in a fraction of the time of its sources, and is what users have. */
let program: string;
beforeAll(async () => {
  api = await startApi({ BERTH_PUBLIC_ADDRESSES: '203.0.113.7' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
  folder = await mkdtemp(join(tmpdir(), 'berth-cli-'));
  await writeFile(join(folder, 'words.txt'), 'one two three\n');
  await promisify(execFile)(build, [join(folder, 'dist')]);
  program = join(folder, 'dist/cli/bin/berth.cjs');
});
afterAll(async () => {
  await api.end();
  await rm(folder, { recursive: true });
});

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

function start(args: string[], options: { key?: string; input?: string | Buffer; env?: Record<string, string> } = {}) {
  const env = { PATH: process.env.PATH ?? '', BERTH_API: api.base, BERTH_KEY: options.key ?? api.alice.key, ...options.env };
  const child = spawn(process.execPath, [program, ...args], { cwd: folder, env });
  const ended: Ended = { code: null, out: '', err: '' };
  child.stdout.on('data', (chunk) => {
    ended.out += chunk;
  });
  child.stderr.on('data', (chunk) => {
    ended.err += chunk;
  });
  child.stdin.end(options.input ?? '');
  const end = new Promise<Ended>((resolve) => child.on('close', (code) => resolve({ ...ended, code })));
  return { soFar: ended, end };
}

const berth = (args: string[], options?: Parameters<typeof start>[1]) => start(args, options).end;

describe('ports', () => {
  test('are published, listed and withdrawn by their id or their public address', async () => {
    const vm = await berth(['vms', 'create', 'shop', '--image', 'debian-12', '--publish', '443', '--json']);
    expect([vm.code, vm.err]).toEqual([0, '']);
    const published = await berth([
      'ports',
      'publish',
      'shop',
      '80',
      '--public',
      '20007',
      '--allow',
      '198.51.100.0/24',
      '--json',
    ]);
    expect(JSON.parse(published.out)).toMatchObject({
      port: 80,
      publicPort: 20_007,
      allow: ['198.51.100.0/24'],
      state: 'pending',
    });
    const listed = await berth(['ports', 'list', '--vm', 'shop']);
    expect(listed.out).toMatch(/80 .*203\.0\.113\.7:20007\/tcp .*198\.51\.100\.0\/24 .*pending \(vm\)/);
    expect(listed.out).toMatch(/443 .*all .*pending \(vm\)/);
    expect((await berth(['ports', 'withdraw', '203.0.113.7:20007/tcp'])).code).toBe(0);
    expect((await berth(['ports', 'withdraw', '203.0.113.7:20007/tcp'])).err).toContain('There is no published port');
    const rest = JSON.parse((await berth(['ports', 'list', '--json'])).out) as { id: string; port: number }[];
    expect(rest.map(({ port }) => port)).toEqual([443]);
    const refused = await berth(['edges', 'list']);
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('operator')]);
    expect((await berth(['edges', 'list'], { key: api.operator.key })).code).toBe(0);
  });
});

describe('accounts', () => {
  test('are opened, adjusted once a key, listed in units, and verified with an exit code', async () => {
    const key = api.operator.key;
    const opened = await berth(['accounts', 'open', 'alice', 'EUR', '--credit', '2.5', '--json'], { key });
    const { id } = JSON.parse(opened.out) as { id: string };
    const adjust = ['accounts', 'adjust', id, '--amount', '12.5', '--reason', 'paid', '--key', 'invoice-17'];
    expect((await berth(adjust, { key })).code).toBe(0);
    expect((await berth(adjust, { key })).code).toBe(0);
    expect((await berth(['accounts', 'adjust', id, '--amount=-16', '--reason', 'too much'], { key })).err).toContain(
      'insufficient-funds',
    );
    expect((await berth(['accounts', 'list'])).out).toMatch(new RegExp(`${id} +owner .* 12\\.5 +EUR +-2\\.5`));
    expect((await berth(['accounts', 'entries', id])).out).toMatch(/ 12\.5 +12\.5 +adjustment .* paid /);
    expect((await berth(['admin', 'verify-books'], { key })).code).toBe(0);
    await api.ledger.$transaction([
      api.ledger.$executeRaw`SET LOCAL session_replication_role = replica`,
      api.ledger.$executeRaw`UPDATE "Account" SET balance = 7 WHERE id = ${id}`,
    ]);
    const wrong = await berth(['admin', 'verify-books'], { key });
    expect([wrong.code, wrong.out]).toEqual([1, expect.stringMatching(new RegExp(`^balance +${id} `, 'm'))]);
  });
});

describe('images', () => {
  test('are built, listed, shown, published and deleted', async () => {
    const parts = { disk: { file: 'd' }, kernel: { file: 'k' }, initrd: { file: 'i' } };
    await api.ledger.image.update({ where: { id: await api.addImage('base') }, data: { parts } });
    const build = [
      'images',
      'build',
      'mine',
      '--base',
      'base',
      '--package',
      'ffmpeg',
      '--file',
      '/opt/words=@words.txt',
      '--run',
      'true',
    ];
    const built = await berth([...build, '--json']);
    expect(built.code).toBe(0);
    const image = JSON.parse(built.out) as { id: string; digest: string };
    expect((await berth(build)).out).toBe(`mine ${image.digest} building\n`);
    const { recipe } = await api.ledger.image.findUniqueOrThrow({ where: { id: image.id } });
    expect(recipe).toMatchObject({ packages: ['ffmpeg'], commands: ['true'], files: [{ path: '/opt/words', mode: '0644' }] });
    expect((await berth(['images', 'list', '--state', 'building'])).out).toContain(image.digest);
    expect(JSON.parse((await berth(['images', 'show', 'mine', '--json'])).out)).toMatchObject({ id: image.id });
    const refused = await berth(['images', 'publish', 'mine']);
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('(forbidden)')]);
    expect((await berth(['images', 'publish', 'mine'], { key: api.operator.key })).out).toBe('mine published\n');
    await berth(['images', 'publish', 'mine', '--undo'], { key: api.operator.key });
    expect((await berth(['images', 'log', 'mine'])).code).toBe(0);
    expect((await berth(['images', 'delete', 'mine'])).out).toBe('mine will be cancelled\n');
    const both = await berth(['images', 'build', 'x', '--base', 'base', '--suite', 'bookworm']);
    expect([both.code, both.err]).toEqual([2, 'berth: --base, --disk and --suite exclude each other\n']);
  });
});

describe('files', () => {
  test('are put, listed, fetched and removed', async () => {
    const put = await berth(['files', 'put', 'words.txt']);
    expect(put).toMatchObject({ code: 0, err: '' });
    const id = put.out.trim();
    expect((await berth(['files', 'ls'])).out).toMatch(new RegExp(`^ID +SIZE +CREATED +NAME\n${id} +14 B +\\S+ +words.txt\n`));
    expect(await berth(['files', 'get', id, '-o', 'copy.txt'])).toMatchObject({ code: 0, out: 'copy.txt\n' });
    expect(await readFile(join(folder, 'copy.txt'), 'utf8')).toBe('one two three\n');
    expect((await berth(['files', 'get', id, '-o', '-'])).out).toBe('one two three\n');
    expect((await berth(['files', 'rm', id])).code).toBe(0);
    const gone = await berth(['files', 'get', id]);
    expect([gone.code, gone.err]).toEqual([1, `berth: No such resource (not-found): There is no file ${id}\n`]);
  });

  test('of many megabytes arrive complete, and the standard input is a file too', async () => {
    const bytes = randomBytes(20_000_000);
    const put = await berth(['files', 'put', '-', '--name', 'noise', '--json'], { input: bytes });
    const file = JSON.parse(put.out) as FileBody;
    expect(file.sizeBytes).toBe(20_000_000);
    await berth(['files', 'get', file.id]);
    expect((await readFile(join(folder, 'noise'))).equals(bytes)).toBe(true);
    expect((await readdir(folder)).filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  test('never choose their path on this machine', async () => {
    const { id } = await api.put(api.alice, '../../escaped', 'x');
    expect((await berth(['files', 'get', id])).out).toBe('escaped\n');
  });

  test('a name cannot write to the terminal', async () => {
    const { id } = await api.put(api.alice, 'a\u009b31mred', 'x');
    expect((await berth(['files', 'ls'])).out).toContain('a?31mred');
    await berth(['files', 'rm', id]);
  });
});

describe('tasks', () => {
  const read = async (id: string) => (await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${id}`)).body;
  const submit = ['tasks', 'submit', '--image', 'debian-12'];

  test('are submitted with every option', async () => {
    const args = [
      '--name',
      'count',
      '--input',
      'in/words=@words.txt',
      '--input',
      'in/more=https://example.com/x',
      '--output',
      'out/*',
    ];
    const sizes = [
      '--env',
      'A=b=c',
      '--vcpus',
      '2',
      '--memory-mib',
      '512',
      '--disk-mib',
      '64',
      '--nodes',
      '2',
      '--timeout-s',
      '9',
      '--duration-s',
      '99',
    ];
    const { code, out } = await berth([...submit, ...args, ...sizes, '--', 'sh', '-c', 'wc in/words']);
    expect(code).toBe(0);
    const task = await read(out.trim());
    expect(task).toMatchObject({
      name: 'count',
      command: ['sh', '-c', 'wc in/words'],
      env: { A: 'b=c' },
      outputPatterns: ['out/*'],
      resources: { vcpus: 2, memoryMiB: 512, diskMiB: 64 },
      nodes: 2,
      timeoutS: 9,
      lease: { durationS: 99 },
    });
    expect(task.inputs[1]).toMatchObject({ path: 'in/more', url: 'https://example.com/x' });
    const content = await api.fetch(api.alice, 'GET', `/v1/files/${task.inputs[0]?.file}/content`);
    expect(await content.text()).toBe('one two three\n');
  });

  test('can be read from a file, and options override it', async () => {
    await writeFile(join(folder, 'task.json'), JSON.stringify({ image: 'debian-12', command: ['true'], nodes: 2 }));
    const { out } = await berth(['tasks', 'submit', '-f', 'task.json', '--nodes', '1']);
    expect(await read(out.trim())).toMatchObject({ nodes: 1, command: ['true'] });
  });

  test('may reserve; the plan shows it, and a quote returns what is possible', async () => {
    const reserve = ['--reserve-at', '+3600', '--duration-s', '60', '--priority', '-2'];
    const { out } = await berth([...submit, ...reserve, '--', 'true']);
    const task = await read(out.trim());
    expect(task.lease).toMatchObject({ kind: 'reservation', durationS: 60, priority: -2 });
    expect(Date.parse(task.promise!.startAt) - Date.now()).toBeGreaterThan(3500_000);
    const schedule = await berth(['schedule', '--json']);
    const { leases } = JSON.parse(schedule.out) as { leases: { task: string; firm: boolean }[] };
    expect(leases).toContainEqual(expect.objectContaining({ task: task.id, firm: true }));
    expect((await berth(['schedule'])).out).toContain(task.id);
    const quote = await berth(['quote', '--image', 'debian-12', '--immediate', '--json']);
    expect(JSON.parse(quote.out)).toMatchObject({ accepted: true, firm: true });
    await berth(['tasks', 'cancel', task.id]);
  });

  test('with an error report which field is wrong', async () => {
    const { code, err } = await berth([...submit, '--memory-mib', '1', '--', 'true']);
    expect([code, err]).toEqual([1, expect.stringContaining('\n  /resources/memoryMiB: found 1; ')]);
  });

  test('are awaited; their exit code is the command’s', async () => {
    const { soFar, end } = start([...submit, '--wait', '--', 'false']);
    const id = await vi.waitFor(() => /task_\w+/.exec(soFar.err)?.[0] ?? Promise.reject(new Error('no id yet')), {
      timeout: 60_000,
    });
    const error = { code: 'command-failed', message: 'The command exited with 3' };
    await api.ledger.task.update({ where: { id }, data: { exitCode: 3, error } });
    await api.advance(id, 'failed');
    expect(await end).toMatchObject({ code: 3, out: `${id} failed: The command exited with 3 (command-failed)\n` });
    const skippedOutputs = [{ path: 'out/huge', node: 0, reason: 'too-large', detail: 'with its 2 bytes' }];
    await api.ledger.task.update({ where: { id }, data: { skippedOutputs, skippedOutputsCount: 2 } });
    expect(await berth(['tasks', 'wait', id])).toMatchObject({
      code: 3,
      out: expect.stringContaining('\n  not stored: out/huge (too-large): with its 2 bytes\n  not stored: 2 in all\n'),
    });
  });

  test('are followed, listed, shown and cancelled', async () => {
    const id = (await berth([...submit, '--', 'true'])).out.trim();
    const following = start(['tasks', 'log', id, '--follow']);
    const url = api.signed('PUT', `/internal/tasks/${id}/log/0`);
    await fetch(url, { method: 'PUT', body: 'hello\n', headers: { 'Content-Range': 'bytes 0-5/*' } });
    await vi.waitFor(() => expect(following.soFar.out).toBe('hello\n'), { timeout: 60_000 });
    expect((await berth(['tasks', 'ls', '--state', 'queued'])).out).toContain(id);
    expect(JSON.parse((await berth(['--json', 'tasks', 'show', id])).out)).toEqual(await read(id));
    expect((await berth(['tasks', 'cancel', id])).out).toBe(`${id} will be cancelled\n`);
    await api.advance(id, 'cancelled');
    expect(await following.end).toMatchObject({ code: 0, out: 'hello\n' });
    expect((await berth(['tasks', 'log', id])).out).toBe('hello\n');
    expect((await berth(['tasks', 'wait', id])).code).toBe(1);
  });
});

test('have outputs that are fetched, by their names, into a folder of each node', async () => {
  const id = (
    await berth(['tasks', 'submit', '--name', 'made', '--nodes', '2', '--image', 'debian-12', '--', 'true'])
  ).out.trim();
  const outputs = [];
  for (const [path, node] of [
    ['out/a', 0],
    ['out/a', 1],
    ['b', 1],
  ] as const) {
    const { id: file, sizeBytes, sha256 } = await api.put(api.alice, path, `${path} of ${node}`);
    outputs.push({ path, node, file, sizeBytes, sha256 });
  }
  await api.ledger.task.update({ where: { id }, data: { outputs } });
  const fetched = await berth(['tasks', 'fetch', 'made', '--to', 'results']);
  expect(fetched).toMatchObject({ code: 0, out: 'results/node0/out/a\nresults/node1/out/a\nresults/node1/b\n' });
  expect(await readFile(join(folder, 'results/node1/out/a'), 'utf8')).toBe('out/a of 1');
  await api.ledger.task.update({ where: { id }, data: { outputs: [{ ...outputs[0], path: '../escaped' }] } });
  expect(await berth(['tasks', 'fetch', id, '--to', 'results/x'])).toMatchObject({
    code: 1,
    err: 'berth: The output ../escaped would leave the folder\n',
  });
});

test('have modes, times and empty folders by their manifest', async () => {
  const id = (
    await berth(['tasks', 'submit', '--image', 'debian-12', '--output-manifest', '--keep-outputs', '--', 'true'])
  ).out.trim();
  const modifiedAt = '2001-02-03T04:05:06.000Z';
  const entry = (path: string, mode: string) => ({ path, mode, modifiedAt });
  const manifest = {
    version: 1,
    files: [entry('out/tool', '4750'), entry('out/lost', '0600')],
    folders: [entry('out', '0555'), entry('out/empty', '0700')],
    links: [{ path: 'out/link', target: '/etc/passwd' }],
  };
  const outputs = [];
  for (const [path, content] of [
    ['.berth-outputs.json', JSON.stringify(manifest)],
    ['out/tool', 'tool'],
  ] as const) {
    const { id: file, sizeBytes, sha256 } = await api.put(api.alice, path, content);
    outputs.push({ path, node: 0, file, sizeBytes, sha256 });
  }
  await api.ledger.task.update({ where: { id }, data: { outputs } });
  expect(await berth(['tasks', 'fetch', id, '--to', 'restored'])).toMatchObject({ code: 0, err: '' });
  const of = async (path: string) => {
    const { mode, mtime } = await stat(join(folder, 'restored', path));
    return [mode & 0o7777, mtime.toISOString()];
  };
  expect(await of('out/tool')).toEqual([0o750, modifiedAt]);
  expect(await of('out/empty')).toEqual([0o700, modifiedAt]);
  expect(await of('out')).toEqual([0o555, modifiedAt]);
  await chmod(join(folder, 'restored/out'), 0o755);
  expect((await readdir(join(folder, 'restored/out'))).sort()).toEqual(['empty', 'tool']);
});

describe('a name in place of an id', () => {
  const made = async (args: string[]) => JSON.parse((await berth([...args, '--json'])).out) as { id: string };
  const shownBy = async (args: string[], options?: Parameters<typeof berth>[1]) => {
    const { code, out, err } = await berth([...args, '--json'], options);
    return code === 0 ? (JSON.parse(out) as { id: string }).id : err;
  };

  test('is that of a VM, before one that was removed', async () => {
    const create = ['vms', 'create', 'web', '--image', 'debian-12'];
    const first = await made(create);
    expect(await shownBy(['vms', 'show', 'web'])).toBe(first.id);
    await api.ledger.vm.update({ where: { id: first.id }, data: { state: 'removed', endedAt: new Date() } });
    expect(await shownBy(['vms', 'show', 'web'])).toBe(first.id);
    const second = await made(create);
    expect(await shownBy(['vms', 'show', 'web'])).toBe(second.id);
    expect(await shownBy(['vms', 'delete', 'web'])).toBe(second.id);
    const removal = await api.ledger.vm.findUniqueOrThrow({ where: { id: second.id } });
    expect(removal.removalRequestedAt).not.toBeNull();
  });

  test('of several is refused with their ids, and nothing is changed', async () => {
    const create = ['tasks', 'submit', '--name', 'twin', '--image', 'debian-12'];
    const ids = [(await berth([...create, '--', 'true'])).out.trim(), (await berth([...create, '--', 'true'])).out.trim()];
    const { code, err } = await berth(['tasks', 'cancel', 'twin']);
    expect([code, err]).toEqual([1, expect.stringMatching(/^berth: There are 2 tasks "twin"; give the id of one:\n {2}task_/)]);
    for (const id of ids) expect(err).toContain(`\n  ${id}  queued  20`);
    expect(await api.ledger.task.count({ where: { id: { in: ids }, cancelRequestedAt: { not: null } } })).toBe(0);
    await api.advance(ids[0]!, 'cancelled');
    expect((await berth(['tasks', 'cancel', 'twin'])).out).toBe(`${ids[1]} will be cancelled\n`);
  });

  test('of nothing, or of another owner’s, is not found', async () => {
    await api.put(api.bob, 'of-bob', 'x');
    for (const [what, args] of [
      ['VM', ['vms', 'pause', 'of-bob']],
      ['task', ['tasks', 'wait', 'of-bob']],
      ['file', ['files', 'get', 'of-bob']],
      ['VM', ['migrations', 'abort', 'of-bob']],
    ] as const)
      expect(await berth([...args])).toMatchObject({ code: 1, err: `berth: There is no ${what} "of-bob"\n` });
  });

  test('is that of a file, also as an input', async () => {
    const { id } = await api.put(api.alice, 'named.txt', 'named');
    expect((await berth(['files', 'get', 'named.txt', '-o', '-'])).out).toBe('named');
    const submitted = await berth(['tasks', 'submit', '--image', 'debian-12', '--input', 'in/x=named.txt', '--', 'true']);
    const task = (await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${submitted.out.trim()}`)).body;
    expect(task.inputs).toMatchObject([{ path: 'in/x', file: id, mode: '0644' }]);
    await berth(['tasks', 'cancel', task.id]);
  });

  test('that resembles an id but is none is a name', async () => {
    const { id } = await api.put(api.alice, 'file_list', 'listed');
    expect((await berth(['files', 'get', 'file_list', '-o', '-'])).out).toBe('listed');
    await berth(['files', 'rm', 'file_list']);
    expect((await api.call(api.alice, 'GET', `/v1/files/${id}`)).status).toBe(404);
  });

  test('is a drain’s host and a migration’s VM: the active one before one that has ended', async () => {
    await api.addHost('host-b');
    const operator = { key: api.operator.key };
    const drain = ['hosts', 'drain', 'host-b', '--by', '1h'];
    const first = await shownBy(drain, operator);
    await berth(['drains', 'cancel', 'host-b'], operator);
    await api.ledger.drain.update({ where: { id: first }, data: { state: 'cancelled', finishedAt: new Date() } });
    expect(await shownBy(['drains', 'show', 'host-b'], operator)).toBe(first);
    const second = await shownBy(drain, operator);
    expect(await shownBy(['drains', 'show', 'host-b'], operator)).toBe(second);
    expect(await shownBy(['drains', 'show', 'host-a'], operator)).toBe('berth: There is no drain of the host "host-a"\n');
    await berth(['drains', 'deadline', 'host-b', '2h'], operator);
    const { deadline } = await api.ledger.drain.findUniqueOrThrow({ where: { id: second } });
    expect(deadline.getTime() - Date.now()).toBeGreaterThan(7_000_000);

    const vm = await made(['vms', 'create', 'mover', '--image', 'debian-12']);
    await api.runOn(vm.id, 'host-b');
    const migration = await shownBy(['vms', 'migrate', 'mover', '--to', 'host-a']);
    expect(await shownBy(['migrations', 'show', 'mover'])).toBe(migration);
    expect((await berth(['migrations', 'ls', '--vm', 'mover'])).out).toContain(migration);
    expect(await shownBy(['migrations', 'abort', 'mover'])).toBe(migration);
    expect(api.workflows.requested.aborted).toContain(migration);
  });

  test('is searched among the newest only, and the message says so', async () => {
    const old = (await api.put(api.alice, 'the-oldest', 'x')).id;
    const { ownerId } = api.alice;
    const { id: _, name: __, ...row } = await api.ledger.file.findUniqueOrThrow({ where: { id: old } });
    const later = new Date(row.createdAt.getTime() + 1);
    const rows = Array.from({ length: searchedItems }, (_, i) => ({
      ...row,
      id: newId('file'),
      ownerId,
      name: `n${i}`,
      createdAt: later,
    }));
    await api.ledger.file.createMany({ data: rows });
    try {
      expect((await berth(['files', 'rm', 'the-oldest'])).err).toBe(
        `berth: There is no file "the-oldest" among the newest ${searchedItems}; older ones are found by their id\n`,
      );
    } finally {
      await api.ledger.file.deleteMany({ where: { id: { in: rows.map(({ id }) => id) } } });
    }
    expect((await berth(['files', 'rm', 'the-oldest'])).code).toBe(0);
  });
});

test('operators list hosts and take them out of scheduling', async () => {
  const operator = { key: api.operator.key };
  expect((await berth(['hosts'], operator)).out).toMatch(
    /^ID +STATE +SCHEDULABLE +CONDITIONS (.*\n)+host-a +up +yes +- +0\/8 +0\/8192 /,
  );
  expect((await berth(['hosts', 'set', 'host-a', '--schedulable', 'no'], operator)).code).toBe(0);
  expect((await api.ledger.host.findUniqueOrThrow({ where: { id: 'host-a' } })).schedulable).toBe(false);
  await berth(['hosts', 'set', 'host-a', '--schedulable', 'yes'], operator);
  expect((await berth(['hosts'])).err).toContain('(forbidden)');
});

test('events are printed to the last, from a cursor', async () => {
  const all = (await berth(['--json', 'events'])).out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { sequence: string; type: string });
  expect(all.length).toBeGreaterThan(2);
  const rest = await berth(['events', '--after', all[0]!.sequence]);
  expect(rest.out.trim().split('\n')).toHaveLength(all.length - 1);
});

test('who one is, owners with their quotas, and keys', async () => {
  const operator = { key: api.operator.key };
  expect((await berth(['me'])).out).toMatch(/^owner .*alice.*\nkey .*\nQUOTA +USED +LIMIT\n(.*\n)*vcpus +\d+ +1024\n/);
  expect((await berth(['owners', 'create', 'physics', '--quota', 'vcpus=64'], operator)).code).toBe(0);
  const changed = await berth(['owners', 'set', 'physics', '--quota', 'vcpus=default', '--quota', 'tasks=3', '--json'], operator);
  expect(JSON.parse(changed.out)).toMatchObject({ name: 'physics', quotas: { vcpus: { limit: 1024 }, tasks: { limit: 3 } } });
  expect((await berth(['owners'], operator)).out).toMatch(/^ID +NAME +VCPUS .*\n(.*\n)*owner_\w+ +physics +0\/1024 .* 0\/3\n/);
  expect((await berth(['owners'])).err).toContain('(forbidden)');
  const create = ['keys', 'create', '--owner', 'physics', '--name', 'laptop', '--expires', '30d', '--json'];
  const made = JSON.parse((await berth(create, operator)).out) as { id: string; key: string };
  expect(JSON.parse((await berth(['me', '--json'], { key: made.key })).out)).toMatchObject({ owner: { name: 'physics' } });
  expect((await berth(['keys'], { key: made.key })).out).toMatch(/^ID +NAME .*\nkey_\w+ +laptop +owner_\w+ +client +20/);
  expect(JSON.parse((await berth(['keys', 'revoke', made.id, '--json'], operator)).out).revokedAt).not.toBeNull();
  await vi.waitFor(async () => expect((await berth(['me'], { key: made.key })).err).toContain('(unauthenticated)'), 10_000);
});

test('operators end what nothing else ends, and remove hosts', async () => {
  const operator = { key: api.operator.key };
  const { out } = await berth(['tasks', 'submit', '--image', 'debian-12', '--name', 'endless', '--json', '--', 'true']);
  const { id } = JSON.parse(out) as { id: string };
  const ended = await berth(['tasks', 'force-end', 'endless', '--reason', 'its host burnt', '--json'], operator);
  expect(JSON.parse(ended.out)).toMatchObject({ id, state: 'failed', error: { code: 'force-ended' } });
  await api.addHost('host-lost');
  await api.ledger.host.update({ where: { id: 'host-lost' }, data: { state: 'unknown' } });
  const refusal = await berth(['hosts', 'remove', 'host-lost', '--declare-lost'], operator);
  expect([refusal.code, refusal.err]).toEqual([1, expect.stringContaining('(confirmation-needed)')]);
  const token = /confirm=(\w+)/.exec(refusal.err)![1]!;
  expect((await berth(['hosts', 'remove', 'host-lost', '--declare-lost', '--confirm', token], operator)).out).toBe(
    'host-lost is removed\n',
  );
});

describe('an invalid command', () => {
  test.each([
    [['nothing'], {}],
    [['files', 'get'], {}],
    [['tasks', 'submit', '--nodes', 'many'], {}],
    [['tasks', 'submit', '--env', 'x'], {}],
    [['schedule', '--from', '2026-02-30T00:00:00Z'], {}],
    [['vms', 'create', 'x', '--image', 'x', '--reserve-at', 'tomorrow 3'], {}],
    [['hosts', 'drain', 'host-a', '--by', '900'], {}],
    [['files', 'put', '-'], {}],
    [['files', 'ls'], { env: { BERTH_API: '' } }],
    [['files', 'ls'], { key: '' }],
    [['files', 'ls', '--api', 'ftp://127.0.0.1'], {}],
  ])('%j ends with 2 and a sentence', async (args, options) => {
    const { code, out, err } = await berth(args, options);
    expect([code, out]).toEqual([2, '']);
    expect(err).not.toMatch(/\n {4}at /);
  });

  test('a key that is not valid, and an API that does not answer, end with 1', async () => {
    expect(await berth(['files', 'ls'], { key: 'berth_x' })).toMatchObject({
      code: 1,
      err: expect.stringContaining('(unauthenticated)'),
    });
    const away = await berth(['files', 'rm', 'x'], { env: { BERTH_API: 'http://127.0.0.1:1' } });
    expect([away.code, away.err]).toEqual([1, expect.stringContaining('http://127.0.0.1:1 does not answer')]);
  });
});
