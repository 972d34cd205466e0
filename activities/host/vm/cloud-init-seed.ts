import type { DomainConfig } from '../../../contracts/domain.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';
import { guestIdentity } from './guest-identity.ts';

/** For the first boot of an image with cloud-init, the disc that it looks for; any other boot has an empty drive. */
export async function attachSeed(ports: HostPorts, vm: VmSpec, record: VmRecord, config: DomainConfig): Promise<DomainConfig> {
  if (config.cdrom === null || record.identityApplied) return config;
  const { seed } = ports.store.paths(vm.id);
  await ports.guest.writeSeed(seed, guestIdentity(vm, ports.clock.nowMs()));
  return { ...config, cdrom: { iso: seed } };
}

/** cloud-init has read it by then, and no later host has to have it. Repeatable. */
export async function detachSeed({ guest, hypervisor, diskTool: disks, store }: HostPorts, vm: VmSpec): Promise<void> {
  const name = domainName(vm.id);
  await guest.awaitCloudInit(name);
  await hypervisor.eject(name);
  await disks.remove(store.paths(vm.id).seed);
}
