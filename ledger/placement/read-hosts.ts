import { z } from 'zod';
import type { PlacementHost } from '../../scheduler/placement.ts';
import { isOpen } from '../hosts/open-hosts.ts';
import { listOf } from '../row-schemas.ts';
import type { Transaction } from '../transaction.ts';

const amount = z.int().min(0);
/** [id, up, schedulable, capacity of three, used of three]: an object for each host takes four times as long. */
const HostTuple = z.tuple([z.string().min(1), z.boolean(), z.boolean(), amount, amount, amount, amount, amount, amount]);

const PlacementRows = z.strictObject({
  hosts: listOf(HostTuple),
  cached: listOf(z.strictObject({ host: z.string(), images: z.array(z.string()) })),
});

/** Every host as an input of placement. @param images those of the queue: which others a host has doesn't matter */
export async function readPlacementHosts(tx: Transaction, images: readonly string[]): Promise<PlacementHost[]> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT
      (SELECT json_agg(json_build_array(h.id, h.state = 'up', ${isOpen}, h.vcpus, h."memoryMiB", h."diskMiB", h."usedVcpus", h."usedMemoryMiB", h."usedDiskMiB"))
       FROM "Host" h WHERE h."removedAt" IS NULL) AS hosts,
      (SELECT json_agg(json_build_object('host', c.host, 'images', c.images)) FROM (
        SELECT "hostId" AS host, array_agg("imageId") AS images FROM "HostImage" WHERE "imageId" = ANY(${[...images]}) GROUP BY "hostId"
      ) c) AS cached`;
  const { hosts, cached } = PlacementRows.parse(rows[0]);
  const imagesOf = new Map(cached.map(({ host, images: here }) => [host, new Set(here)]));
  const none = new Set<string>();
  return hosts.map(([id, up, schedulable, vcpus, memoryMiB, diskMiB, usedVcpus, usedMemoryMiB, usedDiskMiB]) => ({
    id,
    state: up ? 'up' : 'unknown',
    schedulable,
    capacity: { vcpus, memoryMiB, diskMiB },
    used: { vcpus: usedVcpus, memoryMiB: usedMemoryMiB, diskMiB: usedDiskMiB },
    images: imagesOf.get(id) ?? none,
  }));
}
