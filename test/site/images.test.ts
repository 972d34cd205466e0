import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { describe, expect, test } from 'vitest';
import { run } from '../../drivers/host/run-process.ts';
import { imageCachedMessage } from '../../drivers/transfer/image-cache.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import type { PrefetchRequest, PrefetchResult } from '../../workflows/image/prefetch-image.ts';
import { fullTest } from '../full-test.ts';
import type { Problem } from './client.ts';
import { berth, removeVm, startVm } from './reach/berth.ts';
import { onSharedSite } from './shared-site.ts';
import { anotherClient, expectNothingLeft, onHost, type TestSite } from './the-site.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

interface ImageAnswer {
  id: string;
  name: string;
  digest: string;
  state: string;
  sizeBytes: number;
  virtualMiB: number;
  hosts: string[];
  error: { code: string; message: string } | null;
  timeline: { step: string; startedAt: string; endedAt: string | null }[];
}

async function built(name: string, digest: string, timeout = 240_000): Promise<ImageAnswer> {
  const now = async () => (await here.client.callWithRetry<ImageAnswer>('GET', `/v1/images/${name}?digest=${digest}`)).body;
  await expect.poll(async () => (await now()).state, { timeout, interval: 500 }).not.toBe('building');
  return now();
}

/** A complete system: it writes a line to the first serial port, and halts (8086 real mode, loaded at 0x7c00). */
function bootSector(line: string): Buffer {
  const code = [
    [0xfa, 0x31, 0xc0, 0x8e, 0xd8], // cli; ds = 0
    [0xbe, 0x22, 0x7c], // si = the text
    [0xac, 0x84, 0xc0, 0x74, 0x12], // next: al = [si++]; if it is 0: halt
    [0x88, 0xc4, 0xba, 0xfd, 0x03], // ah = al; dx = line status
    [0xec, 0xa8, 0x20, 0x74, 0xfb], // until the port takes a byte
    [0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9], // write it; next
    [0xf4, 0xeb, 0xfd], // halt
  ].flat();
  const sector = Buffer.alloc(512);
  sector.set([...code, ...Buffer.from(`${line}\r\n`)]);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

const small = { vcpus: 1, memoryMiB: 192, diskMiB: 64 };

describe('an image that a client makes', () => {
  fullTest('is built in a VM, used by a task, found again by its recipe, and deleted', async () => {
    const file = await here.client.upload('greeting', Buffer.from('hello from a file\n'));
    const recipe = {
      name: 'greeter',
      base: { image: 'debian-12' },
      files: [{ path: '/opt/greeting', file, mode: '0640' }],
      commands: ['echo building as $(id -un); cat /opt/greeting', 'echo "$WHO" > /opt/who'],
      env: { WHO: 'the recipe' },
      resources: { vcpus: 1, memoryMiB: 256 },
    };
    const accepted = await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe);
    expect(accepted.status).toBe(202);
    const image = await built('greeter', accepted.body.digest);
    expect(image).toMatchObject({ state: 'ready', error: null });
    expect(image.timeline.map(({ step }) => step)).toEqual(['stageIn', 'boot', 'run', 'shutDown', 'store']);
    const log = (await here.client.call<string>('GET', '/v1/images/greeter/log')).body;
    expect(log).toContain('building as root\nhello from a file\n');

    const again = await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', { ...recipe, timeoutS: 900 });
    expect([again.status, again.body.id]).toEqual([200, image.id]);

    const task = await here.client.submit({
      image: 'greeter',
      command: ['sh', '-c', 'cat /opt/who; stat -c "%a" /opt/greeting; cat /etc/machine-id | wc -c'],
      resources: small,
    });
    expect(await here.client.over(task.id)).toMatchObject({ state: 'succeeded' });
    const printed = (await here.client.call<string>('GET', `/v1/tasks/${task.id}/log`)).body;
    expect(printed).toBe('the recipe\n640\n33\n');

    const stranger = await anotherClient(here);
    expect((await stranger.call<Problem>('GET', '/v1/images/greeter')).status).toBe(404);
    // The task's VM booted, so its host makes a template of the image in the background: until then it is in use.
    await expect
      .poll(async () => (await here.client.call('DELETE', '/v1/images/greeter')).status, { timeout: 120_000 })
      .toBe(204);
    expect((await here.client.call<Problem>('GET', '/v1/images/greeter')).status).toBe(404);
    for (const { id } of here.site.hosts) {
      const cached = () => onHost(here, id, ['ls', '/var/lib/berth/images']);
      await expect.poll(cached, { timeout: 60_000 }).not.toContain(image.id);
    }
    await expectNothingLeft(here);
  });

  fullTest(
    'installs packages under the rules for guests, and without the program for sessions leaves its VMs the agent',
    async () => {
      const recipe = {
        name: 'packages',
        base: { image: 'debian-12' },
        commands: [
          'apt-get -q update',
          'DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install rsync',
          // A foreign image has none either.
          'rm /usr/local/sbin/berth-stream',
        ],
        resources: { vcpus: 1, memoryMiB: 256 },
        timeoutS: 900,
      };
      const sinceMs = Date.now();
      const { digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
      const image = await built('packages', digest, 900_000);
      const log = (await here.client.call<string>('GET', '/v1/images/packages/log')).body;
      expect(image, log).toMatchObject({ state: 'ready', error: null });
      expect(log).toMatch(/Setting up rsync/);
      console.log(`built in ${Math.round((Date.now() - sinceMs) / 1000)} s`);

      const vm = await startVm(here, 'foreign', { image: 'packages' });
      const said = await berth(here, ['exec', vm, '--', 'sh', '-c', 'rsync --version | head -n 1; pwd; echo err >&2; exit 7']);
      expect(said).toMatchObject({ code: 7, error: 'err\n' });
      expect(said.output.toString()).toMatch(/^rsync +version .*\n\/root\n$/);
      for (const words of [
        ['exec', '-it', vm],
        ['exec', '-i', vm, '--', 'cat'],
        ['forward', vm, '--stdio', '22'],
      ]) {
        const { error, code } = await berth(here, words, 'input');
        expect([words, code, error]).toEqual([words, expect.any(Number), expect.stringContaining('(guest-program-missing)')]);
        expect(code).not.toBe(0);
      }
      await removeVm(here, vm);
      await expectNothingLeft(here);
    },
    20 * 60_000,
  );

  fullTest('gets two hundred concurrent requests on all hosts, and is transferred to each once', async () => {
    const disk = Buffer.concat([bootSector('popular'), randomBytes(32 * 2 ** 20 - 512)]);
    const recipe = { name: 'popular', base: { file: await here.client.upload('disk', disk) } };
    const { digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
    const image = await built('popular', digest);
    expect(image.hosts).toEqual([]);
    const hosts = here.site.hosts.map(({ id }) => id as HostId);
    const connection = await Connection.connect({ address: here.site.temporalAddress });
    try {
      const { workflow } = new Client({ connection });
      const soon = (ms: number) => new Date(Date.now() + ms).toISOString();
      const ask = (purpose: number) =>
        workflow.execute<(order: PrefetchRequest) => Promise<PrefetchResult>>(workflowType.prefetch, {
          taskQueue: controlQueue,
          workflowId: workflowId.prefetch(image.id as ImageId, String(purpose)),
          args: [{ image: image.id as ImageId, hosts, deadline: soon(240_000), pinnedUntil: soon(1000) }],
        });
      const answers = await Promise.all(Array.from({ length: 200 }, (_, purpose) => ask(purpose)));
      expect(answers.map(({ ready }) => ready.toSorted())).toEqual(answers.map(() => hosts));
    } finally {
      await connection.close();
    }
    const transfers = await Promise.all(
      hosts.map(async (host) => {
        const log = await readFile(join(here.home, 'logs', host, 'worker.log'), 'utf8');
        const lines = log.split('\n').filter((line) => line.includes(imageCachedMessage) && line.includes(image.id));
        return lines.map((line) => (JSON.parse(line) as { from: string }).from);
      }),
    );
    // The repository sent it once, and each host received it by one transfer.
    expect(transfers.flat().toSorted()).toEqual(['peer', 'peer', 'repository']);
    expect(transfers.map((each) => each.length)).toEqual([1, 1, 1]);
  });

  fullTest('fails with its log when a command does, and leaves nothing usable', async () => {
    const recipe = {
      name: 'broken',
      base: { image: 'debian-12' },
      commands: ['echo before', 'exit 7', 'echo after'],
      resources: { vcpus: 1, memoryMiB: 256 },
    };
    const { digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
    expect(await built('broken', digest)).toMatchObject({ state: 'failed', error: { code: 'build-failed' }, sizeBytes: 0 });
    const log = (await here.client.call<string>('GET', '/v1/images/broken/log')).body;
    expect([log.includes('before\n'), log.includes('after')]).toEqual([true, false]);
    const refused = await here.client.call<Problem>('POST', '/v1/tasks', { image: 'broken', command: ['true'] });
    expect([refused.status, refused.body.code]).toEqual([422, 'image-unknown']);
    await expectNothingLeft(here);
  });

  test('of an uploaded disk is written again; one that refers to a file of the host is refused with the reason', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'berth-disks-'));
    try {
      const make = async (name: string, ...more: string[]) => {
        await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...more, join(folder, name), '16M'], { deadlineMs: 30_000 });
        return here.client.upload(name, await readFile(join(folder, name)));
      };
      const fine = await make('fine');
      const backed = await make('backed', '-u', '-b', '/etc/shadow', '-F', 'raw');
      const outside = await make('outside', '-o', `data_file=${join(folder, 'data')}`);
      const from = async (name: string, file: string) => {
        const recipe = { name, base: { file } };
        const { digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
        return built(name, digest);
      };
      expect(await from('fine', fine)).toMatchObject({ state: 'ready', virtualMiB: 16 });
      for (const [name, file, why] of [
        ['backed', backed, /backing file/],
        ['outside', outside, /external file/],
      ] as const) {
        const { state, error } = await from(name, file);
        expect([state, error?.code, error?.message]).toEqual(['failed', 'image-refused', expect.stringMatching(why)]);
      }
      await expectNothingLeft(here);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  fullTest('of an uploaded disk boots from that disk', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'berth-disks-'));
    try {
      const raw = join(folder, 'raw');
      await writeFile(raw, Buffer.concat([bootSector('booted by its own disk'), Buffer.alloc(2 ** 20 - 512)]));
      await run(['qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', raw, join(folder, 'qcow2')], { deadlineMs: 30_000 });
      for (const format of ['raw', 'qcow2']) {
        const file = await here.client.upload(format, await readFile(join(folder, format)));
        const recipe = { name: `bootable-${format}`, base: { file } };
        const { digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
        expect(await built(recipe.name, digest)).toMatchObject({ state: 'ready', error: null });
        const order = { name: format, image: recipe.name, resources: small, lease: { durationS: 600 } };
        const { id } = (await here.client.callWithRetry<{ id: string }>('POST', '/v1/vms', order)).body;
        // It has no agent, so its state never gets past created; its console shows that the firmware found its code.
        const console = async () => (await here.client.call<string>('GET', `/v1/vms/${id}/console`)).body;
        await expect.poll(console, { timeout: 120_000 }).toContain('booted by its own disk');
        await here.client.callWithRetry('DELETE', `/v1/vms/${id}`);
        const state = async () => (await here.client.callWithRetry<{ state: string }>('GET', `/v1/vms/${id}`)).body.state;
        await expect.poll(state, { timeout: 120_000 }).toBe('removed');
      }
      await expectNothingLeft(here);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  fullTest('SIGKILL of its builder at a step: it is built completely after the restart', async () => {
    const cases: { name: string; digest: string }[] = [];
    for (const step of ['boot', 'run', 'store']) {
      const recipe = {
        name: `killed-while-${step}`,
        base: { image: 'debian-12' },
        commands: ['echo started', 'sleep 2; head -c 20000000 /dev/urandom > /opt/noise; sha256sum /opt/noise > /opt/sum'],
        resources: { vcpus: 1, memoryMiB: 256 },
      };
      const { name, digest } = (await here.client.callWithRetry<ImageAnswer>('POST', '/v1/images', recipe)).body;
      const at = async () =>
        (await here.client.callWithRetry<ImageAnswer>('GET', `/v1/images/${name}`)).body.timeline.at(-1)?.step;
      await expect.poll(at, { timeout: 240_000, interval: 50 }).toBe(step);
      const vm = await here.client.callWithRetry<{ items: { name: string; state: string; host: string }[] }>('GET', '/v1/vms');
      const { host } = vm.body.items.find((one) => one.name === 'build' && one.state !== 'removed')!;
      const child = here.site.child(`${host}/worker`);
      const restarts = child.restarts();
      child.kill('SIGKILL');
      await child.untilReadyAgain(restarts, 60_000);
      cases.push({ name, digest });
    }
    for (const { name, digest } of cases) {
      expect([name, await built(name, digest)]).toMatchObject([name, { state: 'ready', error: null }]);
      const log = (await here.client.call<string>('GET', `/v1/images/${name}/log`)).body;
      expect(log.match(/^started$/gm)).toHaveLength(1);
    }
    const last = cases.at(-1)!.name;
    const check = { image: last, command: ['sha256sum', '-c', '/opt/sum'], resources: small };
    expect(await here.client.over((await here.client.submit(check)).id)).toMatchObject({ state: 'succeeded' });
    await expectNothingLeft(here);
  });
});
