import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';

/**
 * Takes no turn: it is meant for while runCommand follows the command. A domain that is gone has no command, and one
 * of another generation is left alone.
 */
export async function stopCommand({ hypervisor, guest, store }: HostPorts, vmId: VmId, generation: number): Promise<void> {
  const record = await store.read(vmId);
  if (record === null) return;
  if (record.generation > generation)
    throw new BerthError(
      'stale-generation',
      `stopping the command of ${vmId} with generation ${generation}: ${record.generation} is recorded`,
    );
  if (record.flushed || (await hypervisor.status(domainName(vmId))) === null) return;
  await guest.stopJob(domainName(vmId));
}
