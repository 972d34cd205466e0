import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { RunCommand, StageIn } from '../../contracts/host.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { fullTest } from '../full-test.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { vmOf } from './requests.ts';

/** VMs from a template on a real host: what they share, what differs, and the result of a failure. */
let host: RealHost;
let stop: () => Promise<void>;
const alive: VmId[] = [];
let made = 0;

beforeAll(async () => {
  const opened = await openRealHosts(1);
  stop = opened.stop;
  host = opened.hosts[0]!;
  await host.activities().ensureImage(host.image());
  const template = newVm();
  // An attempt after a kill of the worker begins again.
  for (const ms of [300, 1500]) {
    await Promise.race([
      host
        .activities()
        .buildTemplate(template)
        .catch(() => null),
      delay(ms),
    ]);
    await host.restart();
  }
  expect((await host.activities().buildTemplate(template)).outcome).toBe('made');
  await remove(template.id);
});
afterEach(async () => {
  for (const id of alive.splice(0)) await remove(id);
});
afterAll(() => stop?.());

const network = { vni: 9, cidr: '10.128.12.0/24', gateway: '10.128.12.1' };

function newVm(diskMiB = 128): VmSpec {
  made += 1;
  return vmOf(host.image(), { name: `node${made}`, diskMiB, network });
}

async function remove(id: VmId): Promise<void> {
  await host.activities().removeDomain(id, 1);
  await host.activities().removeDisks(id, 1);
}

async function prepared(diskMiB?: number, more: Partial<VmSpec> = {}): Promise<VmSpec> {
  const vm = { ...newVm(diskMiB), ...more };
  alive.push(vm.id);
  const input = Buffer.from(vm.name);
  const url = host.serve(`input-${vm.id}`, input);
  const sha256 = createHash('sha256').update(input).digest('hex');
  const stageIn: StageIn = {
    vm,
    inputs: [{ path: 'in/name', url, source: 'repository', sizeBytes: input.length, sha256 }],
    limits: { outsideBytes: 2 ** 20, outsideSeconds: 5, allowInternal: false },
  };
  await host.activities().stageIn(stageIn);
  return vm;
}

/** The output of a command in the guest. */
async function ask(vm: VmSpec, script: string): Promise<string[]> {
  const log = { url: host.url(`/log/${vm.id}`), limitBytes: 2 ** 16 };
  const run: RunCommand = { vm, command: ['sh', '-ec', script], env: {}, timeoutS: 60, log };
  const result = await host.activities().runCommand(run);
  const said = host.log(vm.id).toString();
  expect([result.exitCode, said]).toEqual([0, said]);
  return said.trim().split('\n');
}

const introduce = `
hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address in/name; echo
head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n'; echo
cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub
ip -4 -o addr show dev eth0 | awk '{print $4}'
ls /etc/ssh/ | grep -c '_key$'
cat /sys/block/vdb/size; date +%s
`;

describe('guests from one template', () => {
  it('share nothing that identifies them, and nothing secret', async () => {
    const vms = await Promise.all([prepared(64), prepared(1000), prepared()]);
    const running = await Promise.all(vms.map((vm) => host.activities().ensureRunning(vm)));
    expect(running.map(({ boot }) => boot.kind)).toEqual(['warm', 'warm', 'warm']);
    const said = await Promise.all(vms.map((vm) => ask(vm, introduce)));
    for (const [index, vm] of vms.entries()) {
      const [name, machineId, , mac, input, , , address, keys, sectors, seconds] = said[index]!;
      expect([name, mac, input, address, keys]).toEqual([vm.name, vm.mac, vm.name, `${vm.address}/24`, '1']);
      expect(machineId).toBe(vm.id && machineId);
      expect(Number(sectors)).toBe(vm.diskMiB * 2048);
      expect(Math.abs(Number(seconds) - Date.now() / 1000)).toBeLessThan(60);
    }
    for (const line of [1, 2, 5, 6]) expect(new Set(said.map((lines) => lines[line])).size).toBe(vms.length);
  });

  fullTest('have a root as large as requested', async () => {
    const rootMiB = host.image().virtualMiB + 256;
    const vm = await prepared(undefined, { rootMiB });
    expect((await host.activities().ensureRunning(vm)).boot.kind).toBe('warm');
    const [sectors, grown] = await ask(
      vm,
      'cat /sys/block/vda/size; resize2fs /dev/vda >/dev/null 2>&1; df --output=size -m / | tail -n 1',
    );
    expect(Number(sectors)).toBe(rootMiB * 2048);
    expect(Number(grown)).toBeGreaterThan(host.image().virtualMiB);
  });

  fullTest('start although their worker is killed at any moment, with their own identity', async () => {
    const vm = await prepared();
    for (const ms of [5, 30, 80, 150, 250, 400]) {
      const outcome = await Promise.race([
        host
          .activities()
          .ensureRunning(vm)
          .catch(() => null),
        delay(ms),
      ]);
      if (outcome) break;
      await host.restart();
    }
    expect((await host.activities().ensureRunning(vm)).boot.kind).toBe('warm');
    expect((await ask(vm, 'hostname; cat /sys/class/net/eth0/address')).slice(0, 2)).toEqual([vm.name, vm.mac]);
  });
});

fullTest(
  'a template that is broken does not prevent a VM from starting, is retired after three failures, and leaves nothing',
  async () => {
    const folder = `/var/lib/berth/images/${host.image().id}/templates`;
    await host.on([
      'sh',
      '-c',
      `f=$(echo ${folder}/*/state); head -c 300000 $f > /tmp/short; cat /tmp/short > $f; rm /tmp/short`,
    ]);
    for (const _ of [1, 2, 3]) {
      const vm = await prepared();
      expect((await host.activities().ensureRunning(vm)).boot).toEqual({ kind: 'cold', why: 'template-failed' });
      expect((await ask(vm, 'hostname'))[0]).toBe(vm.name);
      await remove(vm.id);
    }
    expect((await host.activities().ensureRunning(await prepared())).boot).toEqual({ kind: 'cold', why: 'template-retired' });
    expect((await host.activities().buildTemplate(newVm())).outcome).toBe('retired');
    expect((await host.on(['sh', '-c', `find ${folder} -mindepth 1 -maxdepth 1 -type d`])).trim()).toBe('');
  },
);
