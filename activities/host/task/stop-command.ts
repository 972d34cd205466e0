import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';
import { refuseStale } from '../vm-record.ts';

/**
 * Takes no lock: runCommand holds it while it follows the command. Succeeds where the domain is gone, or on its way
 * into or out of its saved memory, and so has no command that runs; refuses an older generation.
 */
export async function stopCommand({ hypervisor, guest, store }: HostPorts, vmId: VmId, generation: number): Promise<void> {
  const record = await store.read(vmId);
  if (record === null) return;
  refuseStale(record, vmId, generation, 'stopping the command of');
  const found = await hypervisor.status(domainName(vmId));
  if (record.flushed || found === null) return;
  // It is being suspended, or was restored and not yet resumed: its command runs no more.
  if (record.suspended !== null && found.state !== 'running') return;
  await guest.stopJob(domainName(vmId));
}
