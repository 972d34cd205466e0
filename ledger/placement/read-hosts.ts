import { z } from 'zod';
import type { PlacementHost } from '../../scheduler/placement.ts';
import { hostsColumn } from '../leases/plan/lease-rows.ts';
import { hostsOf } from '../leases/plan/site-columns.ts';
import { listOf } from '../row-schemas.ts';
import type { Transaction } from '../transaction.ts';
import { readHostLabels } from './read-rules.ts';

const PlacementRows = z.strictObject({
  hosts: z.string().nullable(),
  /** Of each image the hosts that have it, separated by spaces. */
  cached: listOf(z.strictObject({ image: z.string(), hosts: z.string() })),
});

const noLabels: ReadonlyMap<string, string> = new Map();

/**
 * Every host as an input of placement.
 * @param images those of the queue: which others a host has doesn't matter
 * @param isRuled whether anything of the queue has rules, which name labels
 */
export async function readPlacementHosts(tx: Transaction, images: readonly string[], isRuled = false): Promise<PlacementHost[]> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT ${hostsColumn} AS hosts,
      (SELECT json_agg(json_build_object('image', c.image, 'hosts', c.hosts)) FROM (
        SELECT "imageId" AS image, string_agg("hostId", ' ') AS hosts FROM "HostImage" WHERE "imageId" = ANY(${[...images]}) GROUP BY "imageId"
      ) c) AS cached`;
  const { hosts: text, cached } = PlacementRows.parse(rows[0]);
  const imagesOf = new Map<string, Set<string>>();
  for (const { image, hosts } of cached)
    for (const host of hosts.split(' ')) {
      const here = imagesOf.get(host);
      if (here === undefined) imagesOf.set(host, new Set([image]));
      else here.add(image);
    }
  const none = new Set<string>();
  const labels = isRuled ? await readHostLabels(tx) : null;
  const { hosts, used } = hostsOf({ hosts: text, vacant: [] });
  return hosts.map(({ id, answers, up, capacity }) => ({
    id,
    state: answers ? 'up' : 'unknown',
    // Of one that does not answer nothing else counts.
    schedulable: up,
    capacity,
    used: used.get(id)!,
    images: imagesOf.get(id) ?? none,
    labels: labels?.get(id) ?? noLabels,
  }));
}
