import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { run } from '../../drivers/host/run-process.ts';
import { debianArchives } from '../../infra/site/archive-exceptions.ts';
import { fullTest } from '../full-test.ts';
import { isFull } from '../tier.ts';
import type { HostAnswer, Problem, TaskAnswer } from './client.ts';
import { onSharedSite } from './shared-site.ts';
import { anotherClient, expectNothingLeft, expectOneCompletion, gpl, sha256, type TestSite } from './the-site.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

// A guest of one processor keeps one processor of this machine busy.
vi.setConfig({ maxConcurrency: 3 });

const small = { image: 'debian-12', resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 } };
const shell = (script: string) => ({ ...small, command: ['sh', '-c', script] });

test('host workers feed their watchdogs', async () => {
  for (const host of ['host1', 'host2', 'host3']) {
    const log = await readFile(join(here.home, 'logs', host, 'worker.log'), 'utf8');
    expect(log, host).not.toContain('what feeds the watchdog of the service manager has ended');
  }
});

describe('a task that ends badly', () => {
  test.concurrent('that fails reports its exit code, and its outputs are kept', async () => {
    const { id } = await here.client.submit({ ...shell('echo partial > result; exit 3'), outputs: ['result'] });
    const task = await here.client.over(id);
    expect(task).toMatchObject({ state: 'failed', exitCode: 3, error: { code: 'command-failed' } });
    expect((await here.client.download(task.outputs[0]!.file)).toString()).toBe('partial\n');
    await expectOneCompletion(here.client, task);
  });

  test.concurrent('that exceeds timeoutS is stopped, with everything that it started', async () => {
    const { id } = await here.client.submit({
      ...shell('echo begun > result; sleep 600 & sleep 600'),
      outputs: ['result'],
      timeoutS: 2,
    });
    const task = await here.client.over(id);
    expect(task).toMatchObject({ state: 'failed', exitCode: null, error: { code: 'task-timeout' } });
    await expectOneCompletion(here.client, task);
  });

  // Their causes are the sagas' and the host's, which have tests of their own.
  if (isFull) {
    test.concurrent.each([
      ['a program that is not in the image', { command: ['no-such-program'] }, 'command-not-started'],
      ['an output pattern that matches nothing', { command: ['true'], outputs: ['out/*'] }, 'output-missing'],
      [
        'inputs larger than its disk',
        { command: ['true'], resources: { memoryMiB: 192, diskMiB: 16 }, big: true },
        'inputs-too-large',
      ],
      [
        'a URL that leads to an internal address',
        { command: ['true'], inputs: [{ path: 'x', url: 'http://127.0.0.1:1/x' }] },
        'address-refused',
      ],
    ])('with %s fails with its own error', async (_what, order, code) => {
      const { big, ...spec } = order as Record<string, unknown>;
      const inputs =
        big === true ? { inputs: [{ path: 'x', file: await here.client.upload('big', randomBytes(20 * 2 ** 20)) }] } : {};
      const { id } = await here.client.submit({ ...small, ...spec, ...inputs });
      const task = await here.client.over(id);
      expect(task).toMatchObject({ state: 'failed', error: { code } });
      expect(task.error!.message.length).toBeGreaterThan(20);
      await expectOneCompletion(here.client, task);
    });
  }

  test('leaves nothing', () => expectNothingLeft(here));
});

describe('a task on real VMs', () => {
  test('counts the words of an uploaded file, and its output, log and event report them', async () => {
    const text = await gpl();
    const file = await here.client.upload('words', text);
    const accepted = await here.client.submit({
      ...shell('echo counting; mkdir -p out; wc -w < in/words > out/count; cat in/words > out/copy'),
      inputs: [{ path: 'in/words', file }],
      outputs: ['out/*'],
    });
    const task = await here.client.over(accepted.id);
    expect(task).toMatchObject({ state: 'succeeded', exitCode: 0, error: null });
    const byPath = Object.fromEntries(task.outputs.map((output) => [output.path, output]));
    expect(Object.keys(byPath).toSorted()).toEqual(['out/copy', 'out/count']);
    const count = await here.client.download(byPath['out/count']!.file);
    expect(Number(count.toString())).toBe(text.toString().split(/\s+/).filter(Boolean).length);
    expect(byPath['out/copy']).toMatchObject({ sizeBytes: text.length, sha256: sha256(text) });
    expect(sha256(await here.client.download(byPath['out/copy']!.file))).toBe(sha256(text));
    expect((await here.client.call<string>('GET', `/v1/tasks/${task.id}/log`)).body).toBe('counting\n');
    expect(task.timeline.map(({ step }) => step)).toEqual(['stageIn', 'create', 'boot', 'run', 'stageOut', 'destroy']);
    const types = (await here.client.eventsOf(task.id)).map(({ type }) => type);
    expect(types).toEqual(['berth.task.accepted', 'berth.task.started', 'berth.task.succeeded']);
    const usage = await expectOneCompletion(here.client, task);
    expect(usage).toMatchObject({ bytesIn: text.length });
    await expectNothingLeft(here);
  });

  test('that prints more than its log holds has the begin and the end of it, while it is followed and afterwards', async () => {
    const last = 300_000;
    const { id } = await here.client.submit(shell(`seq 1 ${last}; exit 150`));
    const followed = here.client.call<string>('GET', `/v1/tasks/${id}/log?follow=1`);
    const task = await here.client.over(id);
    expect(task).toMatchObject({ state: 'failed', exitCode: 150, error: { code: 'command-failed' } });
    expect(task.error!.message).toContain('exited with 150;');
    const { body } = await here.client.call<string>('GET', `/v1/tasks/${id}/log`);
    const [head = '', gap, tail = ''] = body.split(/\n\[berth: (\d+) bytes of output are left out here\]\n/);
    const output = Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('');
    expect([output.startsWith(head), output.endsWith(tail), head.length + tail.length]).toEqual([true, true, 2 ** 20]);
    expect(Number(gap)).toBe(output.length - 2 ** 20);
    expect((await followed).body).toBe(body);
    await expectNothingLeft(here);
  });

  test.each([
    ['an unknown image', { image: 'nix' }, 422, 'image-unknown', null],
    [
      'an input that is not there',
      { inputs: [{ path: 'x', file: 'file_01h455vb4pex5vsknk084sn02q' }] },
      422,
      'file-unknown',
      null,
    ],
    [
      'a path that climbs out',
      { inputs: [{ path: '../etc/passwd', url: 'http://example.org/' }] },
      400,
      'bad-request',
      '/inputs/0/path',
    ],
    ['an output that climbs out', { outputs: ['out/../../x'] }, 400, 'bad-request', '/outputs/0'],
    ['a field that does not exist', { colour: 'red' }, 400, 'bad-request', null],
    ['more memory than any host has', { resources: { memoryMiB: 262_144 } }, 422, 'does-not-fit', null],
  ])('is refused with %s, and nothing comes of it', async (_what, order, status, code, pointer) => {
    const before = (await here.client.call<{ items: TaskAnswer[] }>('GET', '/v1/tasks?limit=1')).body.items[0]!.id;
    const answer = await here.client.call<Problem>('POST', '/v1/tasks', { ...shell('true'), ...order });
    expect(answer.status).toBe(status);
    expect(answer.headers.get('content-type')).toContain('application/problem+json');
    expect(answer.body.code).toBe(code);
    if (pointer !== null) expect(answer.body.errors?.map((error) => error.pointer)).toContain(pointer);
    expect((await here.client.call<{ items: TaskAnswer[] }>('GET', '/v1/tasks?limit=1')).body.items[0]!.id).toBe(before);
  });

  fullTest('of two nodes has two VMs that reach each other by name', async () => {
    const script = 'other=node$((1 - BERTH_NODE)); ping -c 3 -W 20 $other > out-$BERTH_NODE && hostname >> out-$BERTH_NODE';
    const { id } = await here.client.submit({ ...shell(script), nodes: 2, outputs: ['out-*'] });
    const task = await here.client.over(id);
    expect(task).toMatchObject({ state: 'succeeded' });
    expect(task.outputs.map(({ path, node }) => [node, path])).toEqual([
      [0, 'out-0'],
      [1, 'out-1'],
    ]);
    for (const { file, node } of task.outputs) {
      const text = (await here.client.download(file)).toString();
      expect(text).toContain('3 received');
      expect(text).toContain(`node${node}`);
    }
    await expectNothingLeft(here);
  });

  test('reaches no service of the site and no guest of another owner, but what is public', async () => {
    const stranger = await anotherClient(here);
    const other = await stranger.submit({ ...shell('ip -4 -o addr show dev eth0; sleep 60'), timeoutS: 100 });
    await stranger.until(other.id, ['running']);
    const address = await expect
      .poll(
        async () => /inet ([0-9.]+)/.exec((await stranger.call<string>('GET', `/v1/tasks/${other.id}/log`)).body)?.[1] ?? null,
        { timeout: 60_000 },
      )
      .not.toBeNull()
      .then(async () => /inet ([0-9.]+)/.exec((await stranger.call<string>('GET', `/v1/tasks/${other.id}/log`)).body)![1]!);
    const targets = here.site.hosts.map((host) => host.address);
    // Temporal and the API, as the hosts reach them.
    const site = targets[0]!.replace(/\d+$/, '1');
    const services = [here.site.temporalAddress, new URL(here.site.ready.api).host].map((address) => address.split(':')[1]);
    const [archive] = (await debianArchives()).map((url) => URL.parse(url)).filter((url) => url?.protocol === 'http:');
    const archiveProbe = [
      'bash',
      '-c',
      `timeout 20 bash -c 'exec 3<>/dev/tcp/${archive?.hostname}/${archive?.port || 80}'`,
    ] as const;
    const isOnline = await run([...archiveProbe], { deadlineMs: 30_000 }).then(
      () => true,
      () => false,
    );
    const probes = [
      ...services.map(
        (port) => `timeout 2 bash -c 'exec 3<>/dev/tcp/${site}/${port}' 2>/dev/null && echo "reached ${site}:${port}"`,
      ),
      // By its name: a resolver, and public addresses.
      `${archiveProbe[2]} 2>/dev/null && echo "reached the archive"`,
      `ping -c 2 -W 1 ${address} > /dev/null && echo "reached the guest"`,
      ...targets.flatMap((host) => [`ping -c 1 -W 1 ${host} > /dev/null && echo "reached ${host}"`]),
      ...targets.flatMap((host) =>
        [111, 2049, 16509].map(
          (port) => `timeout 2 bash -c 'exec 3<>/dev/tcp/${host}/${port}' 2>/dev/null && echo "reached ${host}:${port}"`,
        ),
      ),
    ];
    // At the same time: each waits for an answer that never comes.
    const script = [...probes.map((probe) => `{ ${probe}; } &`), 'wait', 'echo looked > seen'].join('\n');
    const { id } = await here.client.submit({ ...small, command: ['bash', '-c', script], outputs: ['seen'], timeoutS: 120 });
    const task = await here.client.over(id);
    expect(task.state).toBe('succeeded');
    const { body: log } = await here.client.call<string>('GET', `/v1/tasks/${id}/log`);
    expect(log).toBe(isOnline ? 'reached the archive\n' : '');
    await stranger.call('DELETE', `/v1/tasks/${other.id}`);
    await stranger.over(other.id);
    await expectNothingLeft(here);
  });

  test('is one task when it is posted a hundred times at once with one Idempotency-Key', async () => {
    const key = crypto.randomUUID();
    const answers = await Promise.all(
      Array.from({ length: 100 }, () =>
        here.client.call<TaskAnswer>('POST', '/v1/tasks', shell('true'), { 'idempotency-key': key }),
      ),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    expect(await here.client.over(answers[0]!.body.id)).toMatchObject({ state: 'succeeded' });
  });

  fullTest('twelve at once on three hosts all succeed, and no host is ever promised more than its capacity', async () => {
    let watching = true;
    const excesses: string[] = [];
    const watch = (async () => {
      while (watching) {
        const { body } = await here.operator.call<{ items: HostAnswer[] }>('GET', '/v1/hosts');
        for (const { id, used, capacity } of body.items)
          if (used.memoryMiB > capacity.memoryMiB || used.vcpus > capacity.vcpus || used.diskMiB > capacity.diskMiB)
            excesses.push(id);
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    })();
    const accepted = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        here.client.submit({ ...shell(`echo ${index} > out`), outputs: ['out'], timeoutS: 300 }),
      ),
    );
    const tasks = await Promise.all(accepted.map(({ id }) => here.client.over(id, 280)));
    watching = false;
    await watch;
    expect(tasks.map(({ state }) => state)).toEqual(Array(12).fill('succeeded'));
    for (const [index, task] of tasks.entries()) {
      expect((await here.client.download(task.outputs[0]!.file)).toString()).toBe(`${index}\n`);
      await expectOneCompletion(here.client, task);
    }
    expect(excesses).toEqual([]);
    await expectNothingLeft(here);
  });
});
