import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { domainName } from '../../activities/host/vm/domain-names.ts';
import type { RunCommand, StageIn, StageOut } from '../../contracts/host.ts';
import type { OutputManifest } from '../../model/outputs/manifest.ts';
import type { VmSpec } from '../../model/vm.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { vmOf } from './requests.ts';
import { codeOf } from './suite.ts';

/** The phases of a task on a real host: QEMU, a real guest, and a worker that is killed repeatedly. */
let host: RealHost;
let stop: () => Promise<void>;

beforeAll(async () => {
  const opened = await openRealHosts(1);
  stop = opened.stop;
  host = opened.hosts[0]!;
  await host.activities().ensureImage(host.image());
});
afterAll(() => stop?.());

function requests(command: string[], input: Buffer) {
  const network = { vni: 9, cidr: '10.128.12.0/24', gateway: '10.128.12.1' };
  const vm = vmOf(host.image(), { diskMiB: 128, network });
  const { id } = vm;
  const url = host.serve(`input-${id}`, input);
  const sha256 = createHash('sha256').update(input).digest('hex');
  const stageIn: StageIn = {
    vm,
    inputs: [{ path: 'in/data', url, source: 'repository', sizeBytes: input.length, sha256 }],
    limits: { outsideBytes: 2 ** 20, outsideSeconds: 5, allowInternal: false },
  };
  const run: RunCommand = {
    vm,
    command,
    env: { GREETING: 'hello' },
    timeoutS: 120,
    log: { url: host.url(`/log/${id}`), limitBytes: 2 ** 16 },
  };
  const limits = { files: 100, bytes: 2 ** 26 };
  const stageOut: StageOut = { vm, node: 0, patterns: ['out/*', 'none/*'], uploadUrl: host.url('/outputs'), limits };
  return { vm, stageIn, run, stageOut, sha256 };
}

/** Kills libvirtd, and waits until its successor answers. */
async function killLibvirtd(): Promise<void> {
  host.host.child('libvirtd').kill('SIGKILL');
  await expect.poll(() => host.on(['virsh', '-q', 'uri']).catch(() => 'not yet'), { timeout: 30_000 }).toContain('qemu');
}

/** Calls an activity, and kills its worker after a while, repeatedly, until one attempt completes. */
async function retryWithKills<T>(act: () => Promise<T>, killAfterMs: number[]): Promise<T> {
  for (const ms of killAfterMs) {
    const attempt = act().then(
      (result) => ({ result }),
      () => null,
    );
    const outcome = await Promise.race([attempt, delay(ms, 'killed' as const)]);
    if (outcome !== 'killed' && outcome !== null) return outcome.result;
    await host.restart();
  }
  return act();
}

describe('a task of 10 MB on a real host', () => {
  it('ends well although its worker is killed at any moment, and leaves nothing', async () => {
    const input = randomBytes(10_000_000);
    const script = 'echo $GREETING; mkdir -p out; sleep 2; sha256sum in/data >>out/sums; cp in/data out/copy; sync; echo bye';
    const { vm, stageIn, run, stageOut, sha256 } = requests(['sh', '-c', script], input);
    expect(await retryWithKills(() => host.activities().stageIn(stageIn), [5, 20, 60, 120])).toMatchObject({ bytes: 10_000_000 });
    await retryWithKills(() => host.activities().ensureRunning(vm), [30, 100, 200, 400, 800, 1600, 3200]);
    const result = await retryWithKills(() => host.activities().runCommand(run), [3, 10, 30, 100, 300, 600, 1000]);
    expect(result).toMatchObject({ exitCode: 0, timedOut: false, logBytes: 10 });
    expect(host.log(vm.id).toString()).toBe('hello\nbye\n');
    const staged = await retryWithKills(() => host.activities().stageOut(stageOut), [5, 30, 100]);
    expect(staged).toMatchObject({ unmatched: ['none/*'], bytes: 10_000_000 + sha256.length + '  in/data\n'.length });
    // Once: the command appends.
    expect(host.outputs().get('out/sums')?.toString()).toBe(`${sha256}  in/data\n`);
    expect(createHash('sha256').update(host.outputs().get('out/copy')!).digest('hex')).toBe(sha256);
    await retryWithKills(() => host.activities().removeVm(vm.id, 1), [2, 5, 20, 60]);
    expect(await host.activities().observeInventory()).toMatchObject({
      domains: [],
      disks: [],
      taps: [],
      networks: [],
      quarantined: [],
    });
    expect(
      (await host.on(['ls', '/var/lib/berth/vms', '/var/lib/berth/staging']))
        .split('\n')
        .filter((line) => line.startsWith('vm_')),
    ).toEqual([]);
  });

  it('has the outputs that can be stored, whatever else its guest has left', async () => {
    const left = `set -e; mkdir -p out/empty beside; in/data >out/ran
      printf first >"$(printf 'out/a\\377')"; printf second >"$(printf 'out/a\\376')"; printf third >"$(printf 'out/n\\nl')"
      truncate -s 1G out/sparse; ln -s ran out/link; ln -s /etc out/away; chmod 0750 out/ran
      folder=beside; for n in $(seq 70); do folder=$folder/d; done; mkdir -p $folder
      n=0; while [ $n -lt 3000 ]; do : >beside/$n; n=$((n + 1)); done`;
    const { vm, stageIn, run, stageOut } = requests(['sh', '-c', left], Buffer.from('#!/bin/sh\necho ran\n'));
    const inputs = stageIn.inputs.map((input) => ({ ...input, mode: '0755' }));
    await host.activities().stageIn({ ...stageIn, inputs });
    await host.activities().ensureRunning(vm);
    expect(await host.activities().runCommand(run)).toMatchObject({ exitCode: 0 });
    const request: StageOut = {
      ...stageOut,
      patterns: ['out'],
      manifest: true,
      limits: { ...stageOut.limits, sparseBytes: 2 ** 27 },
    };
    const { outputs, skipped, unmatched } = await host.activities().stageOut(request);
    const stored = Object.fromEntries(outputs.map(({ path }) => [path, host.outputs().get(path)?.toString()]));
    expect(stored).toMatchObject({
      'out/a\\xff': 'first',
      'out/a\\xfe': 'second',
      'out/n\\x0al': 'third',
      'out/ran': 'ran\n',
      'out/link': 'ran\n',
    });
    expect(Object.keys(stored)).toHaveLength(6);
    expect([unmatched, skipped?.listed.map(({ path, reason }) => [path, reason]).sort()]).toEqual([
      [],
      [
        ['out/away', 'symbolic-link'],
        ['out/sparse', 'too-large'],
      ],
    ]);
    const manifest = JSON.parse(stored['.berth-outputs.json']!) as OutputManifest;
    expect(manifest.files.find(({ path }) => path === 'out/ran')?.mode).toBe('0750');
    expect(manifest.folders.map(({ path }) => path)).toEqual(['out', 'out/empty']);
    await host.activities().removeVm(vm.id, 1);
  });

  it('that prints more than its log holds has its begin and its end there, and the signal that ended it is told', async () => {
    const { vm, stageIn, run } = requests(['sh', '-c', 'seq 1 20000; kill -KILL $$'], Buffer.from(''));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    expect(await host.activities().runCommand(run)).toMatchObject({ exitCode: 137, signal: 9, signalTold: true });
    const output = Array.from({ length: 20_000 }, (_, index) => `${index + 1}\n`).join('');
    const { limitBytes } = run.log;
    const [head, tail] = [output.slice(0, (limitBytes / 4) * 3), output.slice(output.length - limitBytes / 4)];
    const gap = `\n[berth: ${output.length - limitBytes} bytes of output are left out here]\n`;
    expect(host.log(vm.id).toString()).toBe(`${head}${gap}${tail}`);
    await host.activities().removeVm(vm.id, 1);
  });

  it('that is suspended has the outputs that it wants to keep read from its disk, without being restored', async () => {
    const script = `mkdir -p out/deep; head -c 3000000 /dev/urandom >out/b; sha256sum out/b >out/deep/sum; rm -f in/data; echo ready
      while :; do cut -d' ' -f1 /proc/uptime >out/clock; sleep 0.05; done`;
    const { vm, stageIn, run, stageOut } = requests(['sh', '-c', script], Buffer.from('input'));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    const running = host
      .activities()
      .runCommand({ ...run, keepOutputs: true })
      .catch(() => 'suspended');
    await expect.poll(() => host.log(vm.id).toString(), { timeout: 60_000, interval: 50 }).toBe('ready\n');
    await host.activities().suspendVm(vm);
    expect(await running).toBe('suspended');
    const { outputs, skipped } = await host.activities().stageOut({ ...stageOut, patterns: ['out', 'in'] });
    expect([outputs.map(({ path }) => path).sort(), skipped?.count]).toEqual([['out/b', 'out/clock', 'out/deep/sum'], 0]);
    const sha256 = createHash('sha256').update(host.outputs().get('out/b')!).digest('hex');
    expect(host.outputs().get('out/deep/sum')?.toString()).toBe(`${sha256}  out/b\n`);
    await host.activities().removeVm(vm.id, 1);
  });

  it('is not begun again in a step for which the watchdog has ended its worker twice', async () => {
    const { vm, stageIn } = requests(['true'], randomBytes(80_000_000));
    const steps = () => host.on(['cat', '/var/lib/berth/steps.json']).catch(() => '');
    for (let time = 0; time < 2; time += 1) {
      const attempt = codeOf(host.activities().stageIn(stageIn));
      await expect
        .poll(steps, { timeout: 30_000, interval: 10 })
        .toContain(`{"vmId":"${vm.id}","step":"stageIn","open":true,"alone":${time > 0},"crashes":${time}`);
      await host.restart('watchdog');
      expect(await attempt).not.toBe('fine');
    }
    expect(await codeOf(host.activities().stageIn(stageIn))).toBe('worker-crashed');
    await host.activities().removeVm(vm.id, 1);
  });

  it('is lost when its domain dies, and reports a program that does not exist', async () => {
    const { vm, stageIn, run } = requests(['no-such-program'], Buffer.from('x'));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    expect(await codeOf(host.activities().runCommand(run))).toBe('command-not-started');
    await host.crash(vm.id);
    expect(await codeOf(host.activities().runCommand(run))).toBe('vm-lost');
    expect(await codeOf(host.activities().ensureRunning(vm))).toBe('vm-lost');
    await host.activities().removeDomain(vm.id, 1);
    await host.activities().removeDisks(vm.id, 1);
  });

  it('continues when libvirtd is killed under it, and with a guest that has none of our programs', async () => {
    const script =
      'echo begun; mv /usr/local/sbin/berth-identity /root; sleep 4; mkdir out; cat /sys/devices/system/clocksource/*/current_clocksource >out/a';
    const { vm, stageIn, run, stageOut } = requests(['sh', '-c', script], Buffer.from('x'));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    const running = host.activities().runCommand(run);
    await expect.poll(() => host.log(vm.id).toString(), { timeout: 60_000 }).toContain('begun');
    host.host.child('libvirtd').kill('SIGKILL');
    expect(await running).toMatchObject({ exitCode: 0 });
    const identity = {
      firstBootKind: null,
      mac: vm.mac,
      hostname: 'node0',
      machineId: 'a'.repeat(32),
      cidr: vm.network.cidr,
      gateway: vm.network.gateway,
      timeMs: Date.now(),
    };
    await host.ports().guest.applyIdentity(vm.id, { ...identity, address: vm.address, neighbours: vm.neighbours });
    expect((await host.activities().stageOut(stageOut)).outputs.map(({ path }) => path)).toEqual(['out/a']);
    // Never tsc, whose rate a guest measures at its boot.
    expect(host.outputs().get('out/a')?.toString()).toMatch(/^(hpet|kvm-clock)\n$/);
    await host.activities().removeDomain(vm.id, 1);
    await host.activities().removeDisks(vm.id, 1);
  });

  it('uses the same virsh when libvirtd was killed between two calls', async () => {
    const lists = () => Promise.all(Array.from({ length: 8 }, () => codeOf(host.ports().hypervisor.list())));
    const fine = Array.from({ length: 8 }, () => 'fine');
    expect(await lists()).toEqual(fine);
    await killLibvirtd();
    expect(await lists()).toEqual(fine);
  });

  it('ends a domain whose QEMU libvirtd has lost, as when it is killed during the start', async () => {
    const { vm, stageIn } = requests(['true'], Buffer.from('x'));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    const name = domainName(vm.id);
    const status = `/run/libvirt/qemu/${name}.xml`;
    // The status as it is written before the pid is known, with the job of that moment.
    const job = "<job type='none' async='migration in' phase='prepare' flags='0x0'/>";
    await host.on(['sed', '-i', `/<domstatus/{s/ pid='[0-9]*'/ pid='0'/;s|$|${job}|}`, status]);
    await killLibvirtd();
    await host.ports().hypervisor.destroy(name);
    expect(await host.ports().hypervisor.list()).toEqual([]);
    expect(await host.on(['ps', '-eo', 'args'])).not.toContain(`guest=${name},`);
    await host.activities().removeDisks(vm.id, 1);
  });

  it('continues after it was suspended and restored by workers that are killed at any moment', async () => {
    const script = 'mkdir out; for i in $(seq 1 200); do echo $i; sleep 0.1; done; date +%s >out/clock; hostname >out/name';
    const { vm, stageIn, run, stageOut } = requests(['sh', '-c', script], Buffer.from('x'));
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    const at = (generation: number): VmSpec => ({ ...vm, generation });
    let generation = 1;
    for (const killAfterMs of [
      [20, 60, 100, 150],
      [200, 300],
      [400, 600],
    ]) {
      const running = codeOf(host.activities().runCommand({ ...run, vm: at(generation) }));
      await expect.poll(() => host.log(vm.id).toString(), { timeout: 60_000 }).toContain('1\n');
      generation += 1;
      const { bytes } = await retryWithKills(() => host.activities().suspendVm(at(generation)), killAfterMs);
      expect(bytes).toBeGreaterThan(2 ** 20);
      expect(await running).not.toBe('fine');
      expect((await host.activities().observeInventory()).domains).toEqual([]);
      generation += 1;
      await retryWithKills(() => host.activities().restoreVm({ vm: at(generation), diskHostAddress: null }), killAfterMs);
      expect((await host.activities().observeInventory()).domains).toMatchObject([{ vmId: vm.id, state: 'running' }]);
    }
    const restoredS = Date.now() / 1000;
    const result = await host.activities().runCommand({ ...run, vm: at(generation) });
    const endedS = Date.now() / 1000;
    expect(result).toMatchObject({ exitCode: 0, timedOut: false });
    const numbers = Array.from({ length: 200 }, (_, index) => `${index + 1}\n`).join('');
    expect(host.log(vm.id).toString()).toBe(numbers);
    await host.activities().stageOut({ ...stageOut, vm: at(generation) });
    const clock = Number(host.outputs().get('out/clock')?.toString());
    expect([clock >= restoredS - 2, clock <= endedS + 2]).toEqual([true, true]);
    await host.activities().removeDomain(vm.id, generation);
    await host.activities().removeDisks(vm.id, generation);
    expect(await host.activities().observeInventory()).toMatchObject({ domains: [], disks: [], taps: [], networks: [] });
  });

  it('that is stopped ends, and the guest continues to run', async () => {
    const { vm, stageIn, run, stageOut } = requests(
      ['sh', '-c', 'mkdir out; echo some >out/part; trap "" TERM; while :; do sleep 1; done'],
      Buffer.from('x'),
    );
    await host.activities().stageIn(stageIn);
    await host.activities().ensureRunning(vm);
    const running = host.activities().runCommand({ ...run, timeoutS: 2 });
    expect(await running).toMatchObject({ timedOut: true, exitCode: null });
    await host.activities().stopCommand(vm.id, 1);
    expect(await codeOf(host.activities().removeDisks(vm.id, 1))).toBe('in-use');
    expect((await host.activities().stageOut(stageOut)).outputs.map(({ path }) => path)).toEqual(['out/part']);
    await host.activities().removeDomain(vm.id, 1);
    await host.activities().removeDisks(vm.id, 1);
  });
});
