import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from './domain-names.ts';
import { markRemoving } from './remove-domain.ts';

/** Removes the VM's folder, and its owner's network when no VM of this host needs it any more. */
export async function removeDisks(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store } = ports;
  const status = await hypervisor.status(domainName(vmId));
  // One that is only defined, with our name, was made by somebody else, and runs nothing: ours are transient.
  if (status !== null && status.state !== 'shutoff')
    throw new BerthError(
      'in-use',
      `removing the disks of ${vmId}: its domain is ${status.state} (${status.reason}); end it first`,
    );
  if (record !== null) {
    await markRemoving(store, record, generation);
    // Before the record goes: it is what leads a repeated attempt here again.
    await removeIdleNetwork(ports, record);
  }
  await store.remove(vmId, generation);
}

/**
 * A network is needed by every VM that is recorded here, not only by those that have a tap already. Those on their way
 * out don't count, or two that leave together would each leave the network to the other.
 */
function removeIdleNetwork({ store, network }: HostPorts, { vni }: VmRecord): Promise<void> {
  const needed = async (): Promise<boolean> => (await store.list()).some(({ record }) => record?.vni === vni && !record.removing);
  return network.removeIfIdle(vni, needed);
}
