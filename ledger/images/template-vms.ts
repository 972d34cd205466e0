import type { VmRef } from '../../contracts/host-calls.ts';
import type { TemplatePlacement } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import { newId, type OwnerId, type VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { takesWork } from '../hosts/open-hosts.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm } from '../vms/placed-vms.ts';
import { specOf } from '../vms/vm-specs.ts';

/** The site's own owner, which has the VMs that the site makes for all owners. */
const siteOwner = { id: 'owner_00000000000000000000000001' as OwnerId, name: 'berth' };
/** A template has no network. */
const noNetwork = { address: '0.0.0.0', mac: '52:54:00:00:00:00' };
/** Disk space for the state of its devices, in addition to the file of its memory. */
const savedStateMiB = 64;

interface LeftoverTemplate {
  id: VmId;
  generation: number;
  same: boolean;
}

async function readLeftover(tx: Transaction, like: VmSpec): Promise<LeftoverTemplate | undefined> {
  const rows = await tx.$queryRaw<LeftoverTemplate[]>`
    SELECT id, generation, state = 'reserved' AND "imageId" = ${like.image.id} AND vcpus = ${like.vcpus}
      AND "memoryMiB" = ${like.memoryMiB} AS same
    FROM "Vm" WHERE template AND "hostId" = ${like.host} AND state NOT IN ('pending', 'removed')`;
  return rows[0];
}

/** Why no template is made now: no task has to wait for one. */
async function readObstacle(tx: Transaction, like: VmSpec): Promise<string | null> {
  const rows = await tx.$queryRaw<{ open: boolean; waiting: boolean }[]>`
    SELECT EXISTS (SELECT FROM "Host" h WHERE h.id = ${like.host} AND ${takesWork}) AS open,
      EXISTS (SELECT FROM "Task" WHERE state = 'queued' AND "placedAt" IS NULL AND "cancelRequestedAt" IS NULL) AS waiting`;
  if (rows[0]?.open !== true) return `${like.host} takes no VMs`;
  return rows[0].waiting ? 'tasks wait for capacity' : null;
}

async function insertTemplateVm(tx: Transaction, id: VmId, like: VmSpec): Promise<void> {
  await tx.$executeRaw`INSERT INTO "Owner" (id, name) VALUES (${siteOwner.id}, ${siteOwner.name}) ON CONFLICT DO NOTHING`;
  await tx.vm.create({
    data: {
      id,
      ownerId: siteOwner.id,
      name: 'template',
      imageId: like.image.id,
      vcpus: like.vcpus,
      memoryMiB: like.memoryMiB,
      diskMiB: like.memoryMiB + savedStateMiB,
      overlayMiB: like.image.virtualMiB,
      state: 'reserved',
      hostId: like.host,
      homeId: like.host,
      generation: 1,
      template: true,
    },
  });
}

/** The VM for whose kind a template was requested, on that host. It may have been removed since; its row stays. */
async function readLike(deps: LedgerDeps, tx: Transaction, ref: VmRef): Promise<VmSpec> {
  // A request of before has the whole.
  if ('network' in ref) return ref as VmSpec;
  const placed = await readPlacedVm(tx, ref.id, { at: ref.host });
  const { host: hostId, vcpus, memoryMiB } = ref;
  const like = { ...noNetwork, hostId, homeId: hostId, vcpus, memoryMiB };
  const vms = placed.vms.map((vm) => (vm.id === ref.id ? { ...vm, ...like } : vm));
  return specOf(deps, { ...placed, vms }, ref.id);
}

const templateSpec = (id: VmId, generation: number, like: VmSpec): VmSpec => ({
  ...like,
  ...noNetwork,
  id,
  generation,
  owner: siteOwner.id,
  name: 'template',
  neighbours: [],
});

/**
 * Reserves a row like any VM's, so that the capacity that a template uses while it is made counts on its host. Templates have
 * the lowest priority: they wait while any task waits, and where the host has no capacity.
 */
export async function reserveTemplate(deps: LedgerDeps, ref: VmRef): Promise<TemplatePlacement> {
  try {
    return await inTransaction(deps.ledger, async (tx): Promise<TemplatePlacement> => {
      await lockPlacement(tx);
      const like = await readLike(deps, tx, ref);
      const leftover = await readLeftover(tx, like);
      if (leftover?.same === true) return { kind: 'reserved', vm: templateSpec(leftover.id, leftover.generation, like) };
      if (leftover !== undefined) return { kind: 'left', vm: leftover.id, generation: leftover.generation };
      const obstacle = await readObstacle(tx, like);
      if (obstacle !== null) return { kind: 'waits', reason: obstacle };
      const id = newId('vm');
      await insertTemplateVm(tx, id, like);
      return { kind: 'reserved', vm: templateSpec(id, 1, like) };
    });
  } catch (error) {
    if (error instanceof BerthError && error.code === 'no-capacity') return { kind: 'waits', reason: error.message };
    throw error;
  }
}
