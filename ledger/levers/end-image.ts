import type { Prisma } from '../../generated/prisma/client.ts';
import { forceEndedTypes } from '../../model/events.ts';
import type { HostId, ImageId, VmId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { writeEvent } from '../events/write-event.ts';
import type { Transaction } from '../transaction.ts';
import { endVm, type RecordEnd } from './end-vm.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

/**
 * Ends a build as failed within the caller's transaction; what it has stored is deleted. The caller holds the placement lock.
 * @returns the hosts on which its VM is fenced; null: it is not being built
 */
export async function endBuild(tx: Transaction, id: ImageId, ending: RecordEnd & { by: string }): Promise<HostId[] | null> {
  const rows = await tx.$queryRaw<{ owner: string; name: string; digest: string; state: string; vm: VmId | null }[]>`
    SELECT "ownerId" AS owner, name, digest, state, "buildVmId" AS vm FROM "Image" WHERE id = ${id} FOR UPDATE`;
  const row = rows[0];
  if (row?.state !== 'building') return null;
  await tx.file.deleteMany({ where: { imageId: id } });
  const stored = ending.error as unknown as Prisma.InputJsonObject;
  await tx.image.update({ where: { id }, data: { state: 'failed', error: stored, finishedAt: ending.now } });
  await requestWorkflowEnd(tx, workflowId.build(row.name, row.digest), ending.error.message, ending.now);
  const fenced = row.vm === null ? [] : await endVm(tx, row.vm, ending);
  const { error, now, by } = ending;
  const data = { image: id, name: row.name, digest: row.digest, owner: row.owner, error, fenced, by, at: now };
  // A recipe may be built again, and be ended again.
  const event = { type: forceEndedTypes.image, subject: id, owner: row.owner, time: now, data, n: Date.parse(now) };
  await writeEvent(tx, event, 'reject');
  return fenced;
}
