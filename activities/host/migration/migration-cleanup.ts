import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';
import { describeDomain, destroyDomain } from '../vm/domain-state.ts';
import { removeDisks } from '../vm/remove-disks.ts';
import { staysSuspended } from '../vm/suspend.ts';

/** Ends a domain that doesn't run, after both hosts were observed. Never ends one that runs. */
export async function removeDomainUnlessRunning(ports: HostPorts, vmId: VmId): Promise<void> {
  const name = domainName(vmId);
  const found = await ports.hypervisor.status(name);
  if (found === null) return;
  if (found.state === 'running')
    throw new BerthError('ambiguous', `removing the second copy of ${name}: ${describeDomain(found)}; it was not to run`);
  await destroyDomain(ports, name, 'removing the second copy of');
}

/** Removes what is left of a VM on a host that it left or never came to. On its home the disks remain. */
export async function removeLeftover(
  ports: HostPorts,
  vmId: VmId,
  generation: number,
  isHome: boolean,
  record: VmRecord | null,
): Promise<void> {
  if (record !== null) await ports.consoleHistory.leave(vmId, record.departureGeneration);
  if (!isHome) return removeDisks(ports, vmId, generation, record);
  if (record === null) return;
  const cleaned = { ...record, generation: Math.max(record.generation, generation), cleanedUpAfter: record.departureGeneration };
  if (cleaned.generation !== record.generation || cleaned.cleanedUpAfter !== record.cleanedUpAfter)
    await ports.store.writeDurably(cleaned);
}

/** Before another host reads the VM's outputs: the guest's writes are on the disk, and no more can follow. */
export async function flushGuestDisks(ports: HostPorts, vmId: VmId, record: VmRecord, signal: AbortSignal): Promise<void> {
  if (record.flushed || (await staysSuspended(ports, record, signal))) return;
  const { hypervisor, guest, store } = ports;
  const name = domainName(vmId);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `flushing the disks of ${name}: its domain ended before its disk was complete`);
  await guest.flushDataDisk(name);
  await store.writeDurably({ ...record, flushed: true });
}
