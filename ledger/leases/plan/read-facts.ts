import { z } from 'zod';
import type { Resources } from '../../../model/host.ts';
import type { ActGroups, PlanFacts } from '../../../scheduler/leases/site/plan-acts.ts';
import { isOpen } from '../../hosts/open-hosts.ts';
import { idOf, listOf, resources } from '../../row-schemas.ts';
import type { Transaction } from '../../transaction.ts';
import { drainedPart, leaseObjects, openPart } from './lease-rows.ts';
import { hostVersion, leaseFact } from './plan-facts.ts';
import { LeaseRow } from './site-row.ts';

const FactRows = z.strictObject({
  hosts: listOf(
    z.strictObject({
      id: z.string(),
      answers: z.boolean(),
      schedulable: z.boolean(),
      capacity: resources,
      used: resources,
      vacant: z.strictObject({ fromS: z.number(), untilS: z.number() }).nullable(),
      allocations: z.int(),
      arriving: listOf(idOf<string>()),
    }),
  ),
  leases: listOf(LeaseRow),
});

/** What the ledger has now of what a plan relies on. */
interface CurrentFacts {
  facts: PlanFacts;
  hosts: { id: string; capacity: Resources; used: Resources }[];
}

/** Reads what acts rely on. The caller holds the placement lock until it has written the acts. */
export async function readFacts(tx: Transaction, { hosts, leases }: ActGroups): Promise<CurrentFacts> {
  const [hostIds, leaseIds] = [[...hosts.keys()], [...leases.keys()]];
  const rows = await tx.$queryRaw<unknown[]>`
    WITH ${drainedPart}, waiting AS MATERIALIZED (
      SELECT unnest(${leaseIds}::text[]) AS id
    ), listed AS MATERIALIZED (
      SELECT id FROM waiting
      UNION SELECT id FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL AND "plannedHosts" && ${hostIds}::text[]
    ), ${openPart}
    SELECT
      (SELECT jsonb_agg(jsonb_build_object('id', h.id, 'answers', h.state = 'up', 'schedulable', ${isOpen},
        'capacity', jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB", 'diskMiB', h."diskMiB"),
        'used', jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB", 'diskMiB', h."usedDiskMiB"),
        'vacant', CASE WHEN h."vacantUntil" IS NOT NULL THEN
          jsonb_build_object('fromS', EXTRACT(EPOCH FROM h."vacantFrom"), 'untilS', EXTRACT(EPOCH FROM h."vacantUntil")) END,
        'allocations', h.allocations, 'arriving', (SELECT jsonb_agg(g.vm) FROM drained g WHERE g.host = h.id)))
       FROM "Host" h WHERE h.id = ANY(${hostIds}) AND h."removedAt" IS NULL) AS hosts,
      ${leaseObjects} AS leases`;
  const found = FactRows.parse(rows[0]);
  return {
    facts: {
      hosts: new Map(
        found.hosts.map(({ id, answers, schedulable, capacity, vacant, allocations, arriving }) => [
          id,
          hostVersion({ capacity, answers, up: answers && schedulable, vacant }, allocations, arriving),
        ]),
      ),
      leases: new Map(found.leases.map((row) => [row.id, leaseFact(row)])),
    },
    hosts: found.hosts,
  };
}
