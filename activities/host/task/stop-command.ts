import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';
import { refuseStale } from '../vm-record.ts';

/**
 * Takes no lock: runCommand holds it while it follows the command. Succeeds where the domain is gone, which has no command
 * any more; refuses an older generation.
 */
export async function stopCommand({ hypervisor, guest, store }: HostPorts, vmId: VmId, generation: number): Promise<void> {
  const record = await store.read(vmId);
  if (record === null) return;
  refuseStale(record, vmId, generation, 'stopping the command of');
  if (record.flushed || (await hypervisor.status(domainName(vmId))) === null) return;
  await guest.stopJob(domainName(vmId));
}
