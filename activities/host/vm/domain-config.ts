import type { DiskSource, DomainConfig, DomainDisk } from '../../../contracts/domain.ts';
import { vmFilePath } from '../../../drivers/host/vm-paths.ts';
import { guestMtu } from '../../../drivers/network/addressing.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { uuidOf } from '../../../model/ids.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName, tapName } from './domain-names.ts';

/**
 * A VM's domain on this host: the same machine on every host, wherever its disks are.
 * @param diskHostAddress address of the host that has its disks; null: this one
 */
export async function domainConfig(ports: HostPorts, vm: VmSpec, diskHostAddress: string | null): Promise<DomainConfig> {
  const [config, bridge] = await Promise.all([configWithoutBridge(ports, vm, diskHostAddress), ports.network.ensure(vm.network)]);
  return { ...config, nic: { ...config.nic, bridge } };
}

/** The same machine without a bridge, with its memory in a file: as it becomes a template. */
export async function templateConfig(ports: HostPorts, vm: VmSpec): Promise<DomainConfig> {
  const config = await configWithoutBridge(ports, vm, null);
  return { ...config, memory: { kind: 'template', file: ports.store.paths(vm.id).templateMemory } };
}

export const extraDiskTarget = (index: number): string => `vd${String.fromCharCode('c'.charCodeAt(0) + index)}`;

async function configWithoutBridge(
  { imageCache, probe, store }: HostPorts,
  vm: VmSpec,
  diskHostAddress: string | null,
): Promise<DomainConfig> {
  const [image, accelerator] = await Promise.all([imageCache.find(vm.image.id), probe.accelerator()]);
  if (image === null) throw new Error(`BUG: image ${vm.image.id} isn't in the cache, but an overlay needs it`);
  const paths = store.paths(vm.id);
  const diskSource = (path: string): DiskSource =>
    diskHostAddress === null ? { kind: 'file', path } : { kind: 'nfs', host: diskHostAddress, path };
  return {
    name: domainName(vm.id),
    uuid: uuidOf(vm.id),
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    unalignedMemory: accelerator === 'qemu' && (vm.machine ?? 1) >= 4,
    memory: { kind: 'own' },
    accelerator,
    kernel: image.kernel,
    initrd: image.initrd,
    cmdline: vm.image.cmdline,
    disks: [
      {
        target: 'vda',
        format: 'qcow2',
        source: diskSource(paths.overlay),
        backing: [{ format: 'qcow2', source: { kind: 'file', path: image.disk } }],
      },
      { target: 'vdb', format: 'raw', source: diskSource(paths.data), backing: [] },
      ...vm.extraDisksMiB.map((_, index): DomainDisk => {
        const source = diskSource(vmFilePath(paths, `extra-${index}`));
        return { target: extraDiskTarget(index), format: 'raw', source, backing: [] };
      }),
    ],
    // Only the first boot has an ISO in it: cloud-init-seed.ts.
    cdrom: vm.image.cloudInit ? { iso: null } : null,
    nic: { mac: vm.mac, tap: tapName(vm.id), bridge: null, mtu: guestMtu },
    consoleLog: paths.console,
    consoleSocket: paths.consoleSocket,
    identitySocket: paths.identitySocket,
    streamSocket: (vm.machine ?? 1) >= 3 ? paths.streamSocket : null,
    onReboot: vm.onReboot,
    panicDevice: (vm.machine ?? 1) >= 2,
  };
}
