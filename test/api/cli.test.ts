import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type FileBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

const program = fileURLToPath(new URL('../../cli/berth.ts', import.meta.url));

let api: RunningApi;
let folder: string;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
  folder = await mkdtemp(join(tmpdir(), 'berth-cli-'));
  await writeFile(join(folder, 'words.txt'), 'one two three\n');
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

  test('of many megabytes arrive whole, and the standard input is a file too', async () => {
    const bytes = randomBytes(20_000_000);
    const put = await berth(['files', 'put', '-', '--name', 'noise', '--json'], { input: bytes });
    const file = JSON.parse(put.out) as FileBody;
    expect(file.sizeBytes).toBe(20_000_000);
    await berth(['files', 'get', file.id]);
    expect((await readFile(join(folder, 'noise'))).equals(bytes)).toBe(true);
    expect((await readdir(folder)).filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  test('never choose where on this machine they go', async () => {
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

  test('are submitted with everything that they can have', async () => {
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
    expect(task.inputs[1]).toEqual({ path: 'in/more', url: 'https://example.com/x' });
    const content = await api.fetch(api.alice, 'GET', `/v1/files/${task.inputs[0]?.file}/content`);
    expect(await content.text()).toBe('one two three\n');
  });

  test('come from a file too, and options change it', async () => {
    await writeFile(join(folder, 'task.json'), JSON.stringify({ image: 'debian-12', command: ['true'], nodes: 2 }));
    const { out } = await berth(['tasks', 'submit', '-f', 'task.json', '--nodes', '1']);
    expect(await read(out.trim())).toMatchObject({ nodes: 1, command: ['true'] });
  });

  test('may reserve; the plan shows it, and a quote says what could be had', async () => {
    const reserve = ['--reserve-at', '+3600', '--duration-s', '60', '--priority', '2'];
    const { out } = await berth([...submit, ...reserve, '--', 'true']);
    const task = await read(out.trim());
    expect(task.lease).toMatchObject({ kind: 'reservation', durationS: 60, priority: 2 });
    expect(Date.parse(task.promise!.startAt) - Date.now()).toBeGreaterThan(3500_000);
    const schedule = await berth(['schedule', '--json']);
    const { leases } = JSON.parse(schedule.out) as { leases: { task: string; firm: boolean }[] };
    expect(leases).toContainEqual(expect.objectContaining({ task: task.id, firm: true }));
    expect((await berth(['schedule'])).out).toContain(task.id);
    const quote = await berth(['quote', '--image', 'debian-12', '--immediate', '--json']);
    expect(JSON.parse(quote.out)).toMatchObject({ accepted: true, firm: true });
    await berth(['tasks', 'cancel', task.id]);
  });

  test('what is wrong is named', async () => {
    const { code, err } = await berth([...submit, '--memory-mib', '1', '--', 'true']);
    expect([code, err]).toEqual([1, expect.stringContaining('\n  /resources/memoryMiB: found 1; ')]);
  });

  test('are waited for; their exit code is the command’s', async () => {
    const { soFar, end } = start([...submit, '--wait', '--', 'false']);
    const id = await vi.waitFor(() => /task_\w+/.exec(soFar.err)?.[0] ?? Promise.reject(new Error('no id yet')), {
      timeout: 60_000,
    });
    const error = { code: 'command-failed', message: 'The command exited with 3' };
    await api.ledger.task.update({ where: { id }, data: { exitCode: 3, error } });
    await api.advance(id, 'failed');
    expect(await end).toMatchObject({ code: 3, out: `${id} failed: The command exited with 3 (command-failed)\n` });
    expect((await berth(['tasks', 'wait', id])).code).toBe(3);
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

test('operators list hosts and take them out of scheduling', async () => {
  const operator = { key: api.operator.key };
  expect((await berth(['hosts'], operator)).out).toMatch(/^ID +STATE +SCHEDULABLE .*\nhost-a +up +yes +0\/8 +0\/8192 /);
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

describe('a command that is not right', () => {
  test.each([
    [['nothing'], {}],
    [['files', 'get'], {}],
    [['tasks', 'submit', '--nodes', 'many'], {}],
    [['tasks', 'submit', '--env', 'x'], {}],
    [['files', 'put', '-'], {}],
    [['files', 'ls'], { env: { BERTH_API: '' } }],
    [['files', 'ls'], { key: '' }],
  ])('%j ends with 2 and a sentence', async (args, options) => {
    const { code, out, err } = await berth(args, options);
    expect([code, out]).toEqual([2, '']);
    expect(err).not.toMatch(/\n {4}at /);
  });

  test('a key that is not valid, and an API that is not there, end with 1', async () => {
    expect(await berth(['files', 'ls'], { key: 'berth_x' })).toMatchObject({
      code: 1,
      err: expect.stringContaining('(unauthenticated)'),
    });
    const away = await berth(['files', 'rm', 'x'], { env: { BERTH_API: 'http://127.0.0.1:1' } });
    expect([away.code, away.err]).toEqual([1, expect.stringContaining('http://127.0.0.1:1 does not answer')]);
  });
});
