import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';

/** How long what belongs to nobody waits for somebody to miss it. */
const quarantineMs = 24 * 3600 * 1000;

export async function quarantineVm({ hypervisor, store, clock }: HostPorts, vmId: string): Promise<void> {
  const status = await hypervisor.status(vmId);
  if (status !== null)
    throw new BerthError(
      'in-use',
      `quarantining ${vmId}: its domain is ${status.state}; find out whose it is, and end it by hand`,
    );
  const earlier = (await store.listQuarantined()).find((entry) => entry.vmId === vmId);
  if (earlier === undefined) await store.quarantine(vmId);
  else if (clock.nowMs() - earlier.sinceMs >= quarantineMs) await store.removeQuarantined(vmId);
}
