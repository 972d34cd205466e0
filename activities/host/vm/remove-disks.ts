import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from './domain-names.ts';
import { describeDomain } from './domain-state.ts';
import { markRemoving } from './remove-domain.ts';

/** Removes the VM's folder, and its owner's network when no other VM of this host needs it. */
export async function removeDisks(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store } = ports;
  const status = await hypervisor.status(domainName(vmId));
  // A domain that is only defined runs nothing, and isn't ours: ours are transient.
  if (status !== null && status.state !== 'shutoff')
    throw new BerthError('in-use', `removing the disks of ${vmId}: ${describeDomain(status)}; end it first`);
  if (record !== null) {
    await markRemoving(store, record, generation);
    // Before the record is removed: a retry finds the network by it.
    await removeIdleNetwork(ports, record);
  }
  await store.remove(vmId, generation);
}

/**
 * Every VM that is recorded here needs its network, not only those that have a tap already. VMs that are being removed
 * don't count, or two that are removed together would each leave the network to the other.
 */
function removeIdleNetwork({ store, network }: HostPorts, { vni }: VmRecord): Promise<void> {
  const needed = async (): Promise<boolean> => (await store.list()).some(({ record }) => record?.vni === vni && !record.removing);
  return network.removeIfIdle(vni, needed);
}
