import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import type { VmId } from '../../../model/ids.ts';
import { removeDisks } from './remove-disks.ts';
import { removeDomain } from './remove-domain.ts';

/** Removes a VM that has its disks where it runs, whatever its state: the domain first, then its folder. */
export async function removeVm(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  await removeDomain(ports, vmId, generation, record);
  // Of one that was not reached when the VM had moved: the reconciliation removes it.
  const leftFor = record?.departureGeneration ?? null;
  if (leftFor !== null) await ports.consoleHistory.leave(vmId, leftFor);
  await removeDisks(ports, vmId, generation, await ports.store.read(vmId));
}
