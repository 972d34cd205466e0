import type { HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { domainName } from './names.ts';

/** Removes the VM's folder, and its owner's network when no VM of this host needs it any more. */
export async function removeDisks(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store, network } = ports;
  const status = await hypervisor.status(domainName(vmId));
  if (status !== null)
    throw new BerthError(
      'in-use',
      `removing the disks of ${vmId}: its domain is ${status.state} (${status.reason}); end it first`,
    );
  await store.remove(vmId, generation);
  if (record === null) return;
  const { vni } = record;
  // A network is needed by every VM that is recorded, not only by those that have a tap already.
  await network.removeIdle(vni, async () => (await store.list()).some((other) => other.record?.vni === vni));
}
