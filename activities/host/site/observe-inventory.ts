import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import type { HostInventory } from '../../../model/host.ts';
import { vmIdOfDomain } from '../vm/domain-names.ts';

function departureOf(record: VmRecord | null): { departure?: number } {
  if (record === null || record.departureGeneration === null || record.departureGeneration === record.cleanedUpAfter) return {};
  return { departure: record.departureGeneration };
}

/** What is on this host, whatever should be: the ledger compares. */
export async function observeInventory({ hypervisor, store, network, imageCache, probe }: HostPorts): Promise<HostInventory> {
  const [domains, folders, networks, quarantined, cached] = await Promise.all([
    hypervisor.list(),
    store.list(),
    network.list(),
    store.listQuarantined(),
    imageCache.list(),
  ]);
  return {
    domains: domains.map(({ name, uuid, status }) => ({ name, vmId: vmIdOfDomain(name, uuid), state: status.state })),
    disks: folders.map(({ vmId, record, bytes }) => ({
      vmId,
      generation: record?.generation ?? null,
      bytes,
      ...departureOf(record),
    })),
    taps: networks.flatMap(({ taps }) => taps),
    networks: networks.map(({ bridge }) => bridge),
    quarantined: quarantined.map(({ vmId }) => vmId),
    images: cached,
    clockMs: probe.clockMs(),
  };
}
