import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newRecord } from '../../activities/host/vm-record.ts';
import type { VmSpec } from '../../model/vm.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { vmOf } from './requests.ts';

let host: RealHost;
let stop: () => Promise<void>;
let vm: VmSpec;

beforeAll(async () => {
  const opened = await openRealHosts(1);
  stop = opened.stop;
  host = opened.hosts[0]!;
  vm = vmOf(
    { ...host.image(), cloudInit: true },
    {
      name: 'seeded',
      extraDisksMiB: [24],
      network: { vni: 11, cidr: '10.128.16.0/24', gateway: '10.128.16.1' },
      onReboot: 'restart',
    },
  );
});
afterAll(() => stop?.());

/** Replaces cloud-init, which the image doesn't have: reads the seed by its label, as the NoCloud source does. */
const cloudInit = `#!/bin/sh
modprobe virtio_scsi; modprobe sr_mod; modprobe isofs
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/sr0 ] && break; sleep 1; done
mkdir -p /run/seed /var/lib/seen
[ "$(blkid -o value -s LABEL /dev/sr0)" = cidata ] && mount -t iso9660 -o ro /dev/sr0 /run/seed || exit 1
cp /run/seed/* /var/lib/seen/; umount /run/seed
`;

async function ask(script: string): Promise<string> {
  const log = { url: host.url(`/log/${vm.id}`), limitBytes: 2 ** 16 };
  const run = { vm, command: ['sh', '-ec', script], env: {}, timeoutS: 60, log };
  const result = await host.activities().runCommand(run);
  const said = host.log(vm.id).toString();
  expect([result.exitCode, said]).toEqual([0, said]);
  return said;
}

describe('a guest of an image with cloud-init', () => {
  it('finds its name and address at its first boot, by the label of a disc, which is removed once it runs', async () => {
    const ports = host.ports();
    await host.activities().stageIn({ vm, inputs: [], limits: { outsideBytes: 0, outsideSeconds: 1, allowInternal: false } });
    // A guest writes the program into the overlay: this machine never mounts a guest's disk.
    await host.activities().ensureRunning({ ...vm, image: { ...vm.image, cloudInit: false } });
    const path = '/usr/local/bin/cloud-init';
    const request = {
      user: null,
      files: [],
      firstBoot: [`cat >${path} <<'END'`, cloudInit, 'END', `chmod 755 ${path}`],
      swapMiB: 0,
    };
    await host.activities().customizeVm({ vm, ...request });
    await host.activities().shutDownGuest(vm);
    await ports.store.writeDurably({ ...newRecord(vm), staged: { bytes: 0 } });

    expect((await host.activities().ensureRunning(vm)).boot).toEqual({ kind: 'cold', why: 'cloud-init' });
    expect(await host.on(['ls', `/var/lib/berth/vms/${vm.id}`])).not.toContain('seed.iso');
    // The device is opened: blkid would answer from its cache, for two seconds after its last probe.
    const drive = 'if head -c 1 /dev/sr0 >/dev/null; then echo full; else echo empty; fi 2>/dev/null';
    const said = await ask(`cat /var/lib/seen/meta-data /var/lib/seen/network-config; ${drive}; cat /sys/block/vdc/size`);
    expect(said).toContain('"local-hostname":"seeded"');
    expect(said).toContain(`"${vm.address}/24"`);
    expect(said.trim().split('\n').slice(-2)).toEqual(['empty', String(24 * 2048)]);
    await host.activities().removeVm(vm.id, 1);
  });
});
