import type { HostDifference } from '../../contracts/ledger.ts';
import type { HostInventory } from '../../model/host.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { readFenced } from '../levers/fences.ts';
import type { LedgerDeps } from '../transaction.ts';
import { recordHostClock } from './host-clock.ts';

interface VmRow {
  id: VmId;
  state: VmState;
  generation: number;
  hostId: string | null;
  homeId: string | null;
}

/** Domain and disk of one VM on the host. */
interface FoundVm {
  domain: string | null;
  disk: boolean;
  /** As recorded next to the disk; null where there is no record. */
  generation: number | null;
  /** Of a migration from this host after which it was not cleaned up; null without one. */
  departure: number | null;
}

function foundByVm(found: HostInventory): Map<string, FoundVm> {
  const byVm = new Map<string, FoundVm>();
  const of = (vmId: string) => {
    const known = byVm.get(vmId) ?? { domain: null, disk: false, generation: null, departure: null };
    byVm.set(vmId, known);
    return known;
  };
  for (const domain of found.domains) if (domain.vmId !== null) of(domain.vmId).domain = domain.name;
  for (const { vmId, generation, departure = null } of found.disks)
    Object.assign(of(vmId), { disk: true, generation, departure });
  return byVm;
}

type Classification = 'belongs' | 'leftover' | 'foreign';

/**
 * Only a VM that by the ledger has ended on this host is a leftover. A newer generation than the row's is not: a workflow
 * may be about to record it. Nor is a VM that migrates, whose own workflow observes both hosts. The row's own generation
 * on another host than the row's is left from a migration that was rolled back.
 */
function classify(host: HostId, row: VmRow | undefined, found: FoundVm): Classification {
  if (row === undefined) return 'foreign';
  if (row.state === 'removed') return 'leftover';
  if (row.state === 'migrating') return 'belongs';
  const outdated = found.generation !== null && found.generation <= row.generation;
  // A VM in the queue again: this host has what its last placement left.
  if (row.state === 'pending') return row.hostId === null ? 'foreign' : 'leftover';
  if (row.hostId === host || row.homeId === host) return 'belongs';
  return outdated ? 'leftover' : 'foreign';
}

/** Its home has the disks of a VM that has left, and may not have been reached then. An aborted departure is none. */
const hasDeparted = (host: HostId, row: VmRow, { domain, departure }: FoundVm): boolean =>
  row.homeId === host &&
  row.hostId !== null &&
  row.hostId !== host &&
  domain === null &&
  departure !== null &&
  departure <= row.generation;

/** States in which the host must have a domain; in others a workflow is making or removing it. */
const domainStates: readonly VmState[] = ['running', 'paused'];

/** An image that was cached after the inventory was taken does not count as evicted. */
const inventoryDelayMs = 5 * 60_000;

/** Deletes images that the host has evicted from its cache, so that no peer requests them from it. */
async function forgetEvictedImages(deps: LedgerDeps, id: HostId, images: string[]): Promise<void> {
  const before = new Date(deps.clock() - inventoryDelayMs);
  await deps.ledger.hostImage.deleteMany({ where: { hostId: id, imageId: { notIn: images }, usedAt: { lt: before } } });
}

/**
 * The difference between a host's inventory and the ledger. The inventory is not current any more: a VM that it lacks may
 * have been started since, so the caller acts on `missing` only when a second inventory confirms it.
 */
export async function compareHost(
  deps: LedgerDeps,
  id: HostId,
  inventory: HostInventory,
  askedAt?: string,
): Promise<HostDifference> {
  if (askedAt !== undefined && inventory.clockMs !== undefined) await recordHostClock(deps, id, inventory.clockMs, askedAt);
  await forgetEvictedImages(deps, id, inventory.images);
  const byVm = foundByVm(inventory);
  const rows = await deps.ledger.vm.findMany({
    where: { OR: [{ id: { in: [...byVm.keys()] } }, { hostId: id, state: { in: [...domainStates] } }] },
    select: { id: true, state: true, generation: true, hostId: true, homeId: true },
  });
  const fences = new Set(
    (await deps.ledger.fence.findMany({ where: { hostId: id }, select: { vmId: true } })).map((one) => one.vmId),
  );
  const byId = new Map<string, VmRow>(rows.map((row) => [row.id, { ...row, id: row.id as VmId }]));
  const difference: HostDifference = {
    foreignDomains: inventory.domains.filter((domain) => domain.vmId === null).map((domain) => domain.name),
    foreignDisks: [],
    missing: [],
    leftovers: [],
    departed: [],
    fenced: await readFenced(deps.ledger, id),
  };
  for (const [vmId, found] of byVm) {
    // It is among the fenced, or waits there for another host.
    if (fences.has(vmId)) continue;
    const row = byId.get(vmId);
    const classification = classify(id, row, found);
    if (classification === 'foreign') {
      if (found.domain !== null) difference.foreignDomains.push(found.domain);
      if (found.disk) difference.foreignDisks.push(vmId);
    }
    if (classification === 'leftover' && row !== undefined)
      difference.leftovers.push({ vmId: row.id, generation: found.generation ?? row.generation });
    if (classification === 'belongs' && row !== undefined && domainStates.includes(row.state) && hasDeparted(id, row, found))
      difference.departed?.push({ vmId: row.id, generation: found.generation ?? row.generation });
  }
  for (const row of byId.values())
    if (row.hostId === id && domainStates.includes(row.state) && (byVm.get(row.id)?.domain ?? null) === null)
      difference.missing.push(row.id);
  return difference;
}
