import type { DomainConfig } from '../../../contracts/domain.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';
import { guestIdentity } from './guest-identity.ts';

/** Puts the ISO that cloud-init reads into the CD-ROM drive for the first boot; for later boots the drive is empty. */
export async function attachSeed(ports: HostPorts, vm: VmSpec, record: VmRecord, config: DomainConfig): Promise<DomainConfig> {
  if (config.cdrom === null || record.identityApplied) return config;
  const { seed } = ports.store.paths(vm.id);
  await ports.guest.writeSeed(seed, guestIdentity(vm, ports.clock.nowMs()));
  return { ...config, cdrom: { iso: seed } };
}

/** Removes the ISO once cloud-init has read it, so that a migration's target needs no copy of it. Repeatable. */
export async function detachSeed({ guest, hypervisor, diskTool, store }: HostPorts, vm: VmSpec): Promise<void> {
  const name = domainName(vm.id);
  await guest.awaitCloudInit(name);
  await hypervisor.eject(name);
  await diskTool.remove(store.paths(vm.id).seed);
}
