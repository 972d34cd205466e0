import type { StreamOrder } from '../../../contracts/stream.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from './domain-names.ts';

/** Connects a client with a session of a guest that runs here. `conflict` where it does not run. */
export async function openStream({ hypervisor, streams }: HostPorts, vmId: VmId, order: StreamOrder): Promise<void> {
  const found = await hypervisor.status(domainName(vmId));
  // A paused guest answers no program, and its console is there.
  const states = order.console ? ['running', 'paused'] : ['running'];
  if (found === null || !states.includes(found.state))
    throw new BerthError(
      'conflict',
      `connecting to ${vmId}: it does not run on this host now, it is ${found?.state ?? 'not here'}`,
    );
  await streams.open(domainName(vmId), order);
}
