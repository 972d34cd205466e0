import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import { describeDomain } from './domain-state.ts';

/** How long the folder of a VM that the ledger doesn't know is retained. */
const quarantineMs = 24 * 3600 * 1000;

export async function quarantineVm({ hypervisor, store, clock }: HostPorts, vmId: string): Promise<void> {
  const status = await hypervisor.status(vmId);
  if (status !== null)
    throw new BerthError('in-use', `quarantining ${vmId}: ${describeDomain(status)}; find out whose it is, and end it by hand`);
  const earlier = (await store.listQuarantined()).find((entry) => entry.vmId === vmId);
  if (earlier === undefined) await store.quarantine(vmId);
  else if (clock.nowMs() - earlier.sinceMs >= quarantineMs) await store.removeQuarantined(vmId);
}
