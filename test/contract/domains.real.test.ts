import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { VmSpec } from '../../model/vm.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { vmOf } from './requests.ts';

/** What a host observes of real domains: QEMU, libvirt's own log, and guests that end, sleep or fill their disks. */
let host: RealHost;
let stop: () => Promise<void>;

beforeAll(async () => {
  const opened = await openRealHosts(1);
  stop = opened.stop;
  host = opened.hosts[0]!;
  await host.activities().ensureImage(host.image());
});
afterAll(() => stop?.());

async function running(): Promise<VmSpec> {
  const network = { vni: 9, cidr: '10.128.12.0/24', gateway: '10.128.12.1' };
  const vm: VmSpec = { ...vmOf(host.image(), { diskMiB: 64, network }), onReboot: 'restart', machine: 2 };
  await host.activities().stageIn({ vm, inputs: [], limits: { outsideBytes: 0, outsideSeconds: 0, allowInternal: false } });
  await host.activities().ensureRunning(vm);
  return vm;
}

/** Starts a program in the guest, without waiting for it. */
async function inGuest({ id }: VmSpec, script: string): Promise<void> {
  const command = { execute: 'guest-exec', arguments: { path: '/bin/sh', arg: ['-c', script] } };
  await host.on(['virsh', '-q', 'qemu-agent-command', id, JSON.stringify(command)]);
}

const virsh = (...words: string[]) => host.on(['virsh', '-q', ...words] as [string, ...string[]]);

async function becomes({ id }: VmSpec, condition: object): Promise<void> {
  const observe = async () => (await host.activities().observeDomains([id]))[0]?.condition;
  await expect.poll(observe, { timeout: 20_000, interval: 100 }).toMatchObject(condition);
}

const remove = ({ id, generation }: VmSpec) => host.activities().removeVm(id, generation);

describe('a real domain', () => {
  it.each([
    ['poweredOff', (vm: VmSpec) => inGuest(vm, 'poweroff')],
    ['crashed', (vm: VmSpec) => host.crash(vm.id)],
    // Its panic device says so: without it the domain would run on.
    ['crashed', (vm: VmSpec) => inGuest(vm, 'sleep 0.3; echo c >/proc/sysrq-trigger')],
    ['ended', (vm: VmSpec) => virsh('destroy', vm.id)],
  ] as const)('that has ended: %s', async (cause, end) => {
    const vm = await running();
    await becomes(vm, { kind: 'running' });
    const beganMs = Date.now();
    await end(vm);
    await becomes(vm, { kind: 'gone', cause });
    const [report] = await host.activities().observeDomains([vm.id]);
    const { agoMs } = report!.condition as { agoMs: number };
    expect(agoMs).toBeGreaterThanOrEqual(0);
    expect(agoMs).toBeLessThanOrEqual(Date.now() - beganMs);
    // It boots again from its disks.
    await host.activities().ensureRunning({ ...vm, generation: 2 });
    await becomes(vm, { kind: 'running' });
    await remove({ ...vm, generation: 2 });
  });

  it('that is paused, by whom, and that any of it can be resumed', async () => {
    const vm = await running();
    await virsh('suspend', vm.id);
    await becomes(vm, { kind: 'paused', by: 'operator' });
    await host.activities().resumeVm(vm);
    await host.activities().pauseVm(vm);
    await becomes(vm, { kind: 'paused', by: 'owner' });
    await host.activities().resumeVm(vm);
    await becomes(vm, { kind: 'running' });
    await inGuest(vm, 'echo mem >/sys/power/state');
    await becomes(vm, { kind: 'paused', by: 'guest' });
    await host.activities().pauseVm(vm);
    expect((await host.activities().resumeVm(vm))?.problem).toBeNull();
    await becomes(vm, { kind: 'running' });
    await inGuest(vm, 'echo mem >/sys/power/state');
    await becomes(vm, { kind: 'paused', by: 'guest' });
    await remove(vm);
  });

  it('whose guest has filled its root file system is paused and resumed, suspended and restored', async () => {
    const vm = await running();
    await inGuest(
      vm,
      "fallocate -l $(($(stat -f -c '%a * %S' /))) /fill; cat /dev/zero >/fill2; cat /dev/zero >/fill3; sync; : >/run/filled",
    );
    await host.activities().pauseVm(vm);
    const renamed = (generation: number): VmSpec => ({
      ...vm,
      generation,
      neighbours: [...vm.neighbours, { name: `sibling${generation}`, address: '10.128.12.99' }],
    });
    expect((await host.activities().resumeVm(renamed(2)))?.problem).toBeNull();
    await host.activities().suspendVm(renamed(3));
    expect((await host.activities().restoreVm({ vm: renamed(4), diskHostAddress: null }))?.problem).toBeNull();
    await becomes(vm, { kind: 'running' });
    await remove({ ...vm, generation: 4 });
  });
});
