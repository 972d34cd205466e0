import type { DiskSource, DomainConfig, HostPorts } from '../../drivers/ports.ts';
import { uuidOf } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { domainName, tapName } from './names.ts';

/** VXLAN takes 50 bytes of the 1500 that every network carries. */
const guestMtu = 1450;

/**
 * A VM's domain on this host: the same machine on every host, wherever its disks are.
 * @param disksAt address of the host that has its disks; null: this one
 */
export async function domainConfig(
  { images, network, probe, store }: HostPorts,
  vm: VmSpec,
  disksAt: string | null,
): Promise<DomainConfig> {
  const [image, bridge, accelerator] = await Promise.all([
    images.find(vm.image.id),
    network.ensure(vm.network),
    probe.accelerator(),
  ]);
  if (image === null) throw new Error(`BUG: image ${vm.image.id} isn't in the cache, but an overlay needs it`);
  const paths = store.paths(vm.id);
  const at = (path: string): DiskSource => (disksAt === null ? { kind: 'file', path } : { kind: 'nfs', host: disksAt, path });
  return {
    name: domainName(vm.id),
    uuid: uuidOf(vm.id),
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    accelerator,
    kernel: image.kernel,
    initrd: image.initrd,
    cmdline: vm.image.cmdline,
    disks: [
      {
        target: 'vda',
        format: 'qcow2',
        source: at(paths.overlay),
        backing: [{ format: 'qcow2', source: { kind: 'file', path: image.disk } }],
      },
      { target: 'vdb', format: 'raw', source: at(paths.data), backing: [] },
    ],
    nic: { mac: vm.mac, tap: tapName(vm.id), bridge, mtu: guestMtu },
    consoleLog: paths.console,
    onReboot: vm.onReboot,
  };
}
