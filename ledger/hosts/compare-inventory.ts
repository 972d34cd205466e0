import type { HostDifference } from '../../contracts/ledger.ts';
import type { HostInventory } from '../../model/host.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import type { LedgerDeps } from '../transaction.ts';

interface VmRow {
  id: VmId;
  state: VmState;
  generation: number;
  hostId: string | null;
  homeId: string | null;
}

/** What the host has of one VM. */
interface FoundVm {
  domain: string | null;
  disk: boolean;
  /** Recorded next to the disk; null where there is no record. */
  generation: number | null;
}

function foundByVm(found: HostInventory): Map<string, FoundVm> {
  const byVm = new Map<string, FoundVm>();
  const of = (vmId: string) => {
    const known = byVm.get(vmId) ?? { domain: null, disk: false, generation: null };
    byVm.set(vmId, known);
    return known;
  };
  for (const domain of found.domains) if (domain.vmId !== null) of(domain.vmId).domain = domain.name;
  for (const disk of found.disks) Object.assign(of(disk.vmId), { disk: true, generation: disk.generation });
  return byVm;
}

type Classification = 'belongs' | 'leftover' | 'foreign';

/**
 * Only what the ledger says is over here is a leftover. What is recorded with a newer generation than the row's is not
 * ours to judge, nor is a VM that moves: its own workflow asks both hosts. The row's own generation, where the row isn't,
 * is what a migration that was rolled back has left.
 */
function classify(host: HostId, row: VmRow | undefined, found: FoundVm): Classification {
  if (row === undefined) return 'foreign';
  if (row.state === 'removed') return 'leftover';
  if (row.state === 'migrating') return 'belongs';
  const outdated = found.generation !== null && found.generation <= row.generation;
  // Waiting in the queue again: what the last placement left here is of its generation.
  if (row.state === 'pending') return row.hostId === null ? 'foreign' : 'leftover';
  if (row.hostId === host || row.homeId === host) return 'belongs';
  return outdated ? 'leftover' : 'foreign';
}

/** States in which a domain must be there; in the others a workflow is just making or removing it. */
const domainStates: readonly VmState[] = ['running', 'paused'];

/** An image that came while the inventory was on its way is not taken for one that left. */
const inventoryDelayMs = 5 * 60_000;

/** Images that left the host's cache, to make room there: no peer is to ask it for them. */
async function forgetEvictedImages(deps: LedgerDeps, id: HostId, images: string[]): Promise<void> {
  const before = new Date(deps.clock() - inventoryDelayMs);
  await deps.ledger.hostImage.deleteMany({ where: { hostId: id, imageId: { notIn: images }, usedAt: { lt: before } } });
}

/**
 * What the host has and the ledger says it should not, and the reverse. An inventory is as old as its journey: what it
 * lacks may have been started since, so `missing` is to be seen twice before it is believed.
 */
export async function compareHost(deps: LedgerDeps, id: HostId, found: HostInventory): Promise<HostDifference> {
  await forgetEvictedImages(deps, id, found.images);
  const byVm = foundByVm(found);
  const rows = await deps.ledger.vm.findMany({
    where: { OR: [{ id: { in: [...byVm.keys()] } }, { hostId: id, state: { in: [...domainStates] } }] },
    select: { id: true, state: true, generation: true, hostId: true, homeId: true },
  });
  const byId = new Map<string, VmRow>(rows.map((row) => [row.id, { ...row, id: row.id as VmId }]));
  const difference: HostDifference = {
    foreignDomains: found.domains.filter((domain) => domain.vmId === null).map((domain) => domain.name),
    foreignDisks: [],
    missing: [],
    leftovers: [],
  };
  for (const [vmId, thing] of byVm) {
    const row = byId.get(vmId);
    const judgement = classify(id, row, thing);
    if (judgement === 'foreign') {
      if (thing.domain !== null) difference.foreignDomains.push(thing.domain);
      if (thing.disk) difference.foreignDisks.push(vmId);
    }
    if (judgement === 'leftover' && row !== undefined)
      difference.leftovers.push({ vmId: row.id, generation: thing.generation ?? row.generation });
  }
  for (const row of byId.values())
    if (row.hostId === id && domainStates.includes(row.state) && (byVm.get(row.id)?.domain ?? null) === null)
      difference.missing.push(row.id);
  return difference;
}
