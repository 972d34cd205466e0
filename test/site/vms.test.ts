import { expect, test } from 'vitest';
import { newHostKey } from '../../drivers/guest/host-key.ts';
import { fullTest } from '../full-test.ts';
import { onSharedSite } from './shared-site.ts';
import { expectNothingLeft, onHost, type TestSite } from './the-site.ts';

interface VmAnswer {
  id: string;
  state: string;
  pausedBy: string | null;
  host: string;
  address: string;
  hostKey: string | null;
  operation: string | null;
  problem: { code: string; message: string } | null;
}

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

const key = newHostKey('a test');
const vmOf = async (id: string): Promise<VmAnswer> => (await here.client.callWithRetry<VmAnswer>('GET', `/v1/vms/${id}`)).body;

async function until(id: string, what: string, isSo: (vm: VmAnswer) => boolean): Promise<VmAnswer> {
  for (const deadline = Date.now() + 180_000; ; ) {
    const vm = await vmOf(id);
    if (isSo(vm)) return vm;
    if (Date.now() > deadline) throw new Error(`${id} is not ${what} but ${JSON.stringify(vm)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Requests an operation and waits for it; `meanwhile` runs while it is in progress. */
async function operate(id: string, operation: string, meanwhile: () => Promise<void> = async () => undefined): Promise<VmAnswer> {
  const answer = await here.client.callWithRetry<VmAnswer>('POST', `/v1/vms/${id}/${operation}`, undefined, {
    'idempotency-key': crypto.randomUUID(),
  });
  expect([answer.status, answer.body.problem]).toEqual([202, null]);
  await meanwhile();
  const vm = await until(id, `done with its ${operation}`, (one) => one.operation === null);
  expect(vm.problem).toBeNull();
  return vm;
}

/**
 * Logs in by its name from another guest of this owner, which has the VM's key beforehand, and returns what the commands
 * printed.
 */
async function login({ hostKey }: VmAnswer, commands: string): Promise<string> {
  const [identity, known] = await Promise.all([
    here.client.upload('key', Buffer.from(key.private)),
    here.client.upload('known', Buffer.from(`harbour ${hostKey}\n`)),
  ]);
  const ssh = `ssh -i in/key -o BatchMode=yes -o ConnectTimeout=60 -o ConnectionAttempts=60 -o UserKnownHostsFile=in/known ann@harbour`;
  const { id } = await here.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', `chmod 600 in/key; ${ssh} '${commands}' >said`],
    inputs: [
      { path: 'in/key', file: identity },
      { path: 'in/known', file: known },
    ],
    outputs: ['said'],
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 32 },
  });
  const task = await here.client.over(id);
  if (task.state !== 'succeeded') {
    const log = await here.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log`);
    throw new Error(`the login failed: ${JSON.stringify(task.error)}: ${log.body}`);
  }
  return (await here.client.download(task.outputs[0]!.file)).toString();
}

/** Without those of its agent: on a busy machine an emulated guest may not answer for a while. */
async function ownEventsOf(id: string): Promise<string[]> {
  const types = (await here.client.eventsOf(id)).map(({ type }) => type.replace('berth.vm.', ''));
  return types.filter((type) => !type.endsWith('responsive'));
}

const killedWorker = (host: string) => async () => {
  const child = here.site.child(`${host}/worker`);
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.untilReadyAgain(restarts, 30_000);
};

test('a VM is created as requested, suspended and restored under a SIGKILL of its host worker, rebooted and deleted', async () => {
  const file = await here.client.upload('motto', Buffer.from('fair winds\n'));
  const counting = 'i=0; while :; do i=$((i+1)); echo $i >/home/ann/count; sleep 0.2; done';
  const created = await here.client.callWithRetry<VmAnswer>('POST', '/v1/vms', {
    name: 'harbour',
    image: 'debian-12',
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 32 },
    rootMiB: 3000,
    swapMiB: 32,
    user: { name: 'ann', sshKey: key.public.trim() },
    files: [{ path: '/etc/motto', file }],
    firstBoot: ['echo once >>/var/lib/once', `setsid sh -c '${counting}' </dev/null >/dev/null 2>&1 &`],
  });
  expect(created.status, JSON.stringify(created.body)).toBe(202);
  const { id } = created.body;
  const made = await until(id, 'made', ({ state, hostKey }) => state === 'removed' || hostKey !== null);
  expect(made).toMatchObject({ state: 'running', problem: null });

  const facts =
    'hostname; cat /etc/motto /var/lib/once; df --output=size -m / | tail -1; wc -l </proc/swaps; cat count; cat /proc/sys/kernel/random/boot_id';
  const readGuest = async (): Promise<string[]> =>
    (await login(await vmOf(id), facts))
      .trim()
      .split('\n')
      .map((line) => line.trim());
  const [name, motto, once, rootMiB, swaps, count, boot] = await readGuest();
  expect([name, motto, once, swaps]).toEqual(['harbour', 'fair winds', 'once', '2']);
  expect(Number(rootMiB)).toBeGreaterThan(2600);

  const asleep = await operate(id, 'suspend', killedWorker(made.host));
  expect(asleep.state).toBe('suspended');
  expect(await onHost(here, made.host, ['virsh', '-q', 'list', '--all', '--name'])).not.toContain(id);
  const awake = await operate(id, 'restore', killedWorker(made.host));
  expect([awake.state, awake.address]).toEqual(['running', made.address]);
  const after = await readGuest();
  // The same boot, and the command that ran in it continued.
  expect([after[0], after[2], after[6]]).toEqual(['harbour', 'once', boot]);
  expect(Number(after[5])).toBeGreaterThan(Number(count));

  expect((await operate(id, 'reboot')).state).toBe('running');
  const again = await readGuest();
  expect([again[0], again[1], again[2], again[4]]).toEqual(['harbour', 'fair winds', 'once', '2']);
  expect(again[6]).not.toBe(boot);

  expect((await here.client.callWithRetry('DELETE', `/v1/vms/${id}`)).status).toBe(202);
  await until(id, 'removed', ({ state }) => state === 'removed');
  const types = await ownEventsOf(id);
  expect(types).toEqual(['created', 'started', 'suspended', 'restored', 'removed']);
  await expectNothingLeft(here);
});

fullTest('what a VM does without Berth is said within ten seconds, also when its host worker was killed', async () => {
  const order = { name: 'drifter', image: 'debian-12', resources: { vcpus: 1, memoryMiB: 192, diskMiB: 32 } };
  const created = await here.client.callWithRetry<VmAnswer>('POST', '/v1/vms', order);
  const { id } = created.body;
  const { host } = await until(id, 'made', ({ hostKey }) => hostKey !== null);
  const becomes = async (state: string): Promise<VmAnswer> => {
    const beganMs = Date.now();
    const vm = await until(id, state, (one) => one.state === state);
    expect(Date.now() - beganMs).toBeLessThan(10_000);
    return vm;
  };
  const inGuest = (script: string) => {
    const command = { execute: 'guest-exec', arguments: { path: '/bin/sh', arg: ['-c', script] } };
    return onHost(here, host, ['virsh', '-q', 'qemu-agent-command', id, JSON.stringify(command)]);
  };
  await onHost(here, host, ['virsh', 'suspend', id]);
  expect(await becomes('paused')).toMatchObject({ pausedBy: 'operator' });
  expect((await operate(id, 'resume')).state).toBe('running');
  await inGuest('poweroff');
  expect((await becomes('stopped')).problem?.code).toBe('powered-off');
  const request = { 'idempotency-key': crypto.randomUUID() };
  await here.client.callWithRetry('POST', `/v1/vms/${id}/reboot`, undefined, request);
  await until(id, 'booted again', ({ operation, state }) => operation === null && state === 'running');
  await inGuest('sleep 0.3; echo c >/proc/sysrq-trigger');
  await killedWorker(host)();
  expect((await becomes('crashed')).problem?.code).toBe('guest-crashed');
  await here.client.callWithRetry('DELETE', `/v1/vms/${id}`);
  await until(id, 'removed', ({ state }) => state === 'removed');
  const types = await ownEventsOf(id);
  expect(types).toEqual(['created', 'started', 'paused', 'resumed', 'stopped', 'started', 'crashed', 'removed']);
  await expectNothingLeft(here);
});
