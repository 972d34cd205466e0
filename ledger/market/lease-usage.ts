import { Prisma } from '../../generated/prisma/client.ts';
import type { MeteredInterval } from '../../model/money/cost.ts';
import { meteredIntervals } from '../../model/money/metered.ts';
import type { Transaction } from '../transaction.ts';
import { residenciesOfRow } from '../vms/residencies.ts';
import { type Residency, usageByHost } from '../vms/usage.ts';

interface LeasedVm {
  id: string;
  hostId: string | null;
  provider: string | null;
  vcpus: number;
  memoryMiB: number;
  keptMiB: number;
  startedAt: string | null;
  endedAt: string | null;
  resumedAt: string | null;
  asleep: boolean;
  residencies: Residency[];
}

/** What a lease that goes on has used until now, as far as the ledger knows it. */
export const readLeaseUsage = (tx: Transaction, lease: string, now: string): Promise<MeteredInterval[]> =>
  readUsage(tx, Prisma.sql`v."leaseId" = ${lease}`, now);

/** The same of one VM. */
export const readVmUsage = (tx: Transaction, vm: string, now: string): Promise<MeteredInterval[]> =>
  readUsage(tx, Prisma.sql`v.id = ${vm}`, now);

async function readUsage(tx: Transaction, which: Prisma.Sql, now: string): Promise<MeteredInterval[]> {
  const rows = await tx.$queryRaw<LeasedVm[]>`
    SELECT v.id, v."hostId", h.provider, v.vcpus, v."memoryMiB", v."diskMiB" + v."overlayMiB" AS "keptMiB",
      to_json(v."startedAt")#>>'{}' AS "startedAt", to_json(v."endedAt")#>>'{}' AS "endedAt",
      to_json(v."resumedAt")#>>'{}' AS "resumedAt", v.asleep,
      ${residenciesOfRow} AS residencies
    FROM "Vm" v LEFT JOIN "Host" h ON h.id = v."hostId" WHERE ${which} AND v."startedAt" IS NOT NULL`;
  return rows.flatMap(({ keptMiB, residencies, ...vm }) => {
    const usage = usageByHost({ ...vm, suspended: vm.asleep || vm.endedAt !== null }, residencies, now);
    return meteredIntervals(usage, keptMiB, Date.parse(now));
  });
}
