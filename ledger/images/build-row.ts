import type { Resources } from '../../model/host.ts';
import type { ImageId, OwnerId, VmId } from '../../model/ids.ts';
import type { ResolvedRecipe } from '../../model/image.ts';
import type { ImageState } from '../../model/states.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

export interface BuildRow {
  id: ImageId;
  name: string;
  digest: string;
  owner: OwnerId;
  state: ImageState;
  recipe: ResolvedRecipe;
  baseId: ImageId | null;
  cancelRequested: boolean;
  vmId: VmId;
  vmState: string;
  each: Resources;
}

/** An image with its build's VM. Throws not-found. */
export async function readBuild(tx: Transaction, id: ImageId): Promise<BuildRow> {
  const rows = await tx.$queryRaw<BuildRow[]>`
    SELECT i.id, i.name, i.digest, i."ownerId" AS owner, i.state, i.recipe, i."baseId",
      i."cancelRequestedAt" IS NOT NULL AS "cancelRequested", v.id AS "vmId", v.state AS "vmState",
      jsonb_build_object('vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'diskMiB', v."diskMiB" + v."overlayMiB") AS each
    FROM "Image" i JOIN "Vm" v ON v.id = i."buildVmId" WHERE i.id = ${id}`;
  return oneOrNotFound(rows, `image ${id} with a build`);
}
