import type { BuildOutcome } from '../../contracts/ledger.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId, VmId } from '../../model/ids.ts';
import type { TimelineEntry } from '../../model/task.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { type BuildRow, readBuild } from './build-row.ts';
import type { StoredPart } from './image-refs.ts';

/** Records the timeline of a build under way, for the API. */
export async function recordBuildProgress(deps: LedgerDeps, id: ImageId, timeline: TimelineEntry[]): Promise<void> {
  const entries = timeline as unknown as Prisma.InputJsonArray;
  await deps.ledger.image.updateMany({ where: { id, state: 'building' }, data: { timeline: entries } });
}

/** Kernel and initrd are the base's files: the repository keeps a file while an image names it. */
async function readImageParts(tx: Transaction, row: BuildRow, disk: StoredPart): Promise<Record<string, StoredPart>> {
  if (row.recipe.base.kind === 'disk') return { disk };
  const base = await tx.image.findUniqueOrThrow({ where: { id: row.baseId! }, select: { parts: true } });
  const { kernel, initrd } = base.parts as unknown as Record<string, StoredPart>;
  if (kernel === undefined || initrd === undefined)
    throw new BerthError('internal', `BUG: the base ${row.baseId} of image ${row.id} has no kernel`);
  return { disk, kernel, initrd };
}

/**
 * Ends a build, once: the image becomes usable as a whole, in one transaction, or remains unusable. Files that it does not
 * name are deleted. Throws not-found, and conflict when the build ended otherwise.
 */
export async function finishBuild(
  deps: LedgerDeps,
  id: ImageId,
  vmId: VmId,
  outcome: BuildOutcome,
  timeline: TimelineEntry[],
): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    await tx.$queryRaw`SELECT id FROM "Image" WHERE id = ${id} FOR UPDATE`;
    const row = await readBuild(tx, id);
    // Its owner may have started another build meanwhile, or retired the image.
    if (row.vmId !== vmId || row.state === outcome.state || row.state === 'retired') return;
    if (row.state !== 'building')
      throw new BerthError('conflict', `Image ${id} is ${row.state} already; it cannot end as ${outcome.state}`);
    const parts = outcome.state === 'ready' ? await readImageParts(tx, row, outcome.disk) : {};
    const sizeBytes = Object.values(parts).reduce((sum, part) => sum + part.sizeBytes, 0);
    const kept = outcome.state === 'ready' ? outcome.disk.file : '';
    await tx.file.deleteMany({ where: { imageId: id, id: { not: kept } } });
    await tx.image.update({
      where: { id },
      data: {
        state: outcome.state,
        parts: parts as unknown as Prisma.InputJsonObject,
        sizeBytes: BigInt(sizeBytes),
        ...(outcome.state === 'ready' ? { virtualMiB: outcome.virtualMiB } : {}),
        error: outcome.state === 'failed' ? (outcome.error as unknown as Prisma.InputJsonObject) : Prisma.DbNull,
        timeline: timeline as unknown as Prisma.InputJsonArray,
        finishedAt: now,
      },
    });
  });
}
