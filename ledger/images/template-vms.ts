import type { TemplatePlacement } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import { newId, type OwnerId, type VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { lockPlacement } from '../placement/place-queue.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/** The site itself: what it makes for all its owners is this one's. */
const siteOwner = { id: 'owner_00000000000000000000000001' as OwnerId, name: 'berth' };
/** A template is on no network. */
const noNetwork = { address: '0.0.0.0', mac: '52:54:00:00:00:00' };
/** Of the host's disk: its memory in a file, and the state of its devices. */
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

/** Why now is no time for it: nobody's work is to wait for a template. */
async function readObstacle(tx: Transaction, like: VmSpec): Promise<string | null> {
  const rows = await tx.$queryRaw<{ open: boolean; waiting: boolean }[]>`
    SELECT EXISTS (SELECT FROM "Host" WHERE id = ${like.host} AND state = 'up' AND schedulable) AS open,
      EXISTS (SELECT FROM "Task" WHERE state = 'queued' AND "placedAt" IS NULL AND "cancelRequestedAt" IS NULL) AS waiting`;
  if (rows[0]?.open !== true) return `${like.host} takes no VMs`;
  return rows[0].waiting ? 'tasks wait for room' : null;
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
 * A row like any VM's, so that what a template takes while it is made counts against its host. It is held to be nobody's
 * task: while any waits, and where there is no room, it waits.
 */
export async function reserveTemplate({ ledger }: LedgerDeps, like: VmSpec): Promise<TemplatePlacement> {
  try {
    return await inTransaction(ledger, async (tx): Promise<TemplatePlacement> => {
      await lockPlacement(tx);
      const left = await readLeftover(tx, like);
      if (left?.same === true) return { kind: 'reserved', vm: templateSpec(left.id, left.generation, like) };
      if (left !== undefined) return { kind: 'left', vm: left.id, generation: left.generation };
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
