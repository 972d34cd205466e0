import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { TaskAnswer } from './client.ts';
import { move, moveOver } from './moves.ts';
import { expectNothingLeft, onHost, openSite, type TestSite } from './the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite(2, { BERTH_VCPU_RATIO: '8', BERTH_HOST_SHARE: '1' });
  // Nothing is placed there; what runs may move there.
  await here.operator.callWithRetry('PATCH', '/v1/hosts/host2', { schedulable: false });
});
afterAll(() => here.stop());

/** A test that failed leaves the next one an empty site, as one that passed does. */
afterEach(async ({ task: { result } }) => {
  if (result?.state !== 'fail') return;
  const { items } = (await here.client.callWithRetry<{ items: TaskAnswer[] }>('GET', '/v1/tasks')).body;
  const open = items.filter(({ finishedAt }) => finishedAt === null);
  await Promise.all(open.map(({ id }) => here.client.callWithRetry('DELETE', `/v1/tasks/${id}`)));
  for (const { id } of open) await here.client.over(id, 240);
  await expectNothingLeft(here);
}, 300_000);

const small = { image: 'debian-12', resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 } };
const introduce = `mkdir out; { hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub; od -An -vtx1 -N32 /dev/urandom | tr -d ' \\n'; } >out/me`;

interface VmAnswer {
  boot: { kind: string; why: string | null };
}

async function bootsOf({ vms }: TaskAnswer): Promise<VmAnswer['boot'][]> {
  const answers = vms.map((id) => here.client.call<VmAnswer>('GET', `/v1/vms/${id}`));
  return (await Promise.all(answers)).map(({ body }) => body.boot);
}

const templates = () => onHost(here, 'host1', ['sh', '-c', 'ls -d /var/lib/berth/images/*/templates/*x*/ 2>/dev/null || true']);

test('ten VMs from one template have ten names, ids, keys, addresses and random numbers', async () => {
  const first = await here.client.over((await here.client.submit({ ...small, command: ['true'] })).id);
  expect(await bootsOf(first)).toEqual([{ kind: 'cold', why: 'no-template' }]);
  expect(first.timeline.find(({ step }) => step === 'boot')).toMatchObject({ detail: 'cold (no-template)' });
  await expect.poll(templates, { timeout: 240_000, interval: 250 }).toContain('1x192-');
  await expectNothingLeft(here);

  const order = { ...small, command: ['sh', '-c', introduce], outputs: ['out/me'], nodes: 10 };
  const task = await here.client.over((await here.client.submit(order)).id, 240);
  expect(task).toMatchObject({ state: 'succeeded', error: null });
  expect(await bootsOf(task)).toEqual(task.vms.map(() => ({ kind: 'warm', why: null })));
  const said = await Promise.all(
    task.outputs.map(async ({ file }) => (await here.client.download(file)).toString().trim().split('\n')),
  );
  expect(said.map((lines) => lines.length)).toEqual(task.vms.map(() => 6));
  for (const line of said[0]!.keys()) expect(new Set(said.map((lines) => lines[line])).size).toBe(10);
  await expectNothingLeft(here);
});

const kept = 'head -c 200000 /dev/urandom >/run/kept; mkdir out; sha256sum </run/kept >out/before';

test('a VM from a template moves live and as files, to hosts that have no such template, with all of its memory', async () => {
  const script = `${kept}; until [ -e /run/go ]; do sleep 0.1; done; sha256sum </run/kept >out/after`;
  const order = { ...small, command: ['sh', '-c', script], outputs: ['out/*'], timeoutS: 600 };
  const task = await here.client.until((await here.client.submit(order)).id, ['running'], 240);
  const vm = task.vms[0]!;
  expect([task.hosts, await bootsOf(task)]).toEqual([['host1'], [{ kind: 'warm', why: null }]]);
  expect(await onHost(here, 'host2', ['sh', '-c', 'ls /var/lib/berth/images/*/templates 2>/dev/null || true'])).toBe('');
  const away = await moveOver(here, (await move(here, vm, { to: 'host2', mode: 'live' })).id);
  expect(away, JSON.stringify(away)).toMatchObject({ state: 'succeeded', to: 'host2' });
  const back = await moveOver(here, (await move(here, vm, { to: 'host1', mode: 'cold' })).id);
  expect(back, JSON.stringify(back)).toMatchObject({ state: 'succeeded', to: 'host1' });
  const go = { execute: 'guest-exec', arguments: { path: '/bin/touch', arg: ['/run/go'] } };
  await onHost(here, 'host1', ['virsh', '-q', 'qemu-agent-command', vm, JSON.stringify(go)]);
  const ended = await here.client.over(task.id, 240);
  expect(ended, JSON.stringify(ended.error)).toMatchObject({ state: 'succeeded' });
  const [after, before] = await Promise.all(
    ended.outputs.toSorted((a, b) => a.path.localeCompare(b.path)).map(({ file }) => here.client.download(file)),
  );
  expect(after!.toString()).toBe(before!.toString());
  await expectNothingLeft(here);
});

test('a VM whose template is broken boots, and reports it', async () => {
  await onHost(here, 'host1', [
    'sh',
    '-c',
    'for f in /var/lib/berth/images/*/templates/1x192-*/memory; do truncate -s 1M $f; done',
  ]);
  const task = await here.client.over((await here.client.submit({ ...small, command: ['true'] })).id);
  expect(task.state).toBe('succeeded');
  expect(await bootsOf(task)).toEqual([{ kind: 'cold', why: 'template-failed' }]);
  await expectNothingLeft(here);
});
