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

/** Whether that many VMs fit on the empty hosts, as permanentRefusal counts them; also where there are no hosts yet. */
async function fitsEmptyHosts(tx: Transaction, each: Resources, nodes: number): Promise<boolean> {
  const rows = await tx.$queryRaw<{ fits: boolean }[]>`
    SELECT COALESCE(sum(LEAST(vcpus / ${each.vcpus}::int, "memoryMiB" / ${each.memoryMiB}::int,
      "diskMiB" / NULLIF(${each.diskMiB}::int, 0))) >= ${nodes}::int, true) AS fits FROM "Host" WHERE "removedAt" IS NULL`;
  return rows[0]!.fits;
}

/** Throws does-not-fit for VMs that the site could not hold even when it is empty. @param overlayMiB disk of the image, for each */
export async function refuseUnlessFits(
  tx: Transaction,
  spec: Pick<TaskSpec, 'resources' | 'nodes'>,
  overlayMiB: number,
): Promise<void> {
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + overlayMiB };
  if (await fitsEmptyHosts(tx, each, spec.nodes)) return;
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
