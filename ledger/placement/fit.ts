import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Resources } from '../../model/host.ts';
import type { Refusal, TaskSpec } from '../../model/task.ts';
import { permanentRefusal } from '../../scheduler/placement.ts';
import type { Transaction } from '../transaction.ts';

/** The number of hosts that each filter refused: "2 for memory, 1 for state". */
export const refusalText = ({ failed }: Refusal): string =>
  Object.entries(failed)
    .map(([filter, count]) => `${count} for ${filter}`)
    .join(', ');

/**
 * Whether that many VMs fit on the empty hosts, as permanentRefusal counts them; also where there are no hosts yet. Mostly one
 * host has place for all of them, so that not every one is read.
 * @param diskMiB of each VM, with its image's
 */
export function fitsEmptyHosts({ vcpus, memoryMiB }: Resources, diskMiB: Prisma.Sql, nodes: number): Prisma.Sql {
  const count = Prisma.sql`LEAST(h.vcpus / ${vcpus}::int, h."memoryMiB" / ${memoryMiB}::int, h."diskMiB" / NULLIF(${diskMiB}, 0))`;
  return Prisma.sql`(EXISTS (SELECT FROM "Host" h WHERE h."removedAt" IS NULL AND ${count} >= ${nodes}::int)
    OR (SELECT COALESCE(sum(${count}) >= ${nodes}::int, true) FROM "Host" h WHERE h."removedAt" IS NULL))`;
}

/**
 * Throws does-not-fit for VMs that the site could not hold even when it is empty.
 * @param overlayMiB disk of the image, for each
 * @param fits where it was read before
 */
export async function refuseUnlessFits(
  tx: Transaction,
  spec: Pick<TaskSpec, 'resources' | 'nodes'>,
  overlayMiB: number,
  fits?: boolean,
): Promise<void> {
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + overlayMiB };
  if (fits ?? (await readFits(tx, each, spec.nodes))) return;
  // Only a refusal says why each host refuses.
  const hosts = await tx.host.findMany({
    where: { removedAt: null },
    select: { id: true, vcpus: true, memoryMiB: true, diskMiB: true },
  });
  const none = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };
  const refusal = permanentRefusal(
    { id: 'request', nodes: spec.nodes, perVm: each, imageId: null, overtaken: 0 },
    hosts.map(({ id, ...capacity }) => ({
      id,
      state: 'up',
      schedulable: true,
      capacity,
      used: none,
      images: new Set<string>(),
    })),
  );
  if (refusal === null) return;
  const reasons = refusalText(refusal);
  throw new BerthError(
    'does-not-fit',
    `${spec.nodes} VM(s) of ${each.vcpus} vCPUs, ${each.memoryMiB} MiB of memory and ${each.diskMiB} MiB of disk (the image's ${overlayMiB} included) do not fit on this site's ${refusal.hosts} hosts, even when they are empty: ${reasons}`,
    { fields: [{ pointer: '/resources', detail: `refused by ${reasons} of ${refusal.hosts} hosts` }] },
  );
}

async function readFits(tx: Transaction, each: Resources, nodes: number): Promise<boolean> {
  const rows = await tx.$queryRaw<
    { fits: boolean }[]
  >`SELECT ${fitsEmptyHosts(each, Prisma.sql`${each.diskMiB}::int`, nodes)} AS fits`;
  return rows[0]!.fits;
}
