import { Prisma } from '../../generated/prisma/client.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { Usage } from '../../model/task.ts';
import type { Transaction } from '../transaction.ts';
import { type Residency, usageByHost } from './usage.ts';
import type { VmRow } from './vm-row.ts';

/**
 * Records that a VM's residency on a host ends: it migrates, is suspended or was found stopped. The residency began when
 * the VM resumed, or where the one before it ended. The caller clears "resumedAt" afterwards.
 */
export async function endResidency(
  tx: Transaction,
  vm: { id: VmId; generation: number; hostId: HostId },
  now: string,
): Promise<void> {
  await tx.$executeRaw`
    INSERT INTO "VmStay" ("vmId", generation, "hostId", since, until)
    SELECT id, ${vm.generation}, ${vm.hostId}, "resumedAt", ${now}::timestamptz FROM "Vm" WHERE id = ${vm.id}`;
}

/** The residencies of the row `v` of "Vm" that have ended, in their order: a column of a statement that reads it. */
export const residenciesOfRow = Prisma.sql`(
  SELECT COALESCE(jsonb_agg(jsonb_build_object('hostId', s."hostId", 'provider', g.provider, 'since', s.since, 'until', s.until)
    ORDER BY s.generation), '[]') FROM "VmStay" s JOIN "Host" g ON g.id = s."hostId" WHERE s."vmId" = v.id)`;

/** The same of one VM. */
async function readResidencies(tx: Transaction, id: VmId): Promise<Residency[]> {
  return tx.$queryRaw<Residency[]>`
    SELECT s."hostId", g.provider, to_json(s.since)#>>'{}' AS since, to_json(s.until)#>>'{}' AS until
    FROM "VmStay" s JOIN "Host" g ON g.id = s."hostId" WHERE s."vmId" = ${id} ORDER BY s.generation`;
}

/** All of a VM's usage until its end. One that is suspended or stopped has no residency that is still open. */
export async function usageUntil(tx: Transaction, row: VmRow, endedAt: string, now: string): Promise<Usage[]> {
  return readUsage(tx, row, { endedAt, suspended: row.asleep || row.endedAt !== null }, now);
}

/** The usage of the residency that ends now; events have told those before it. */
export async function lastUsage(tx: Transaction, row: VmRow, now: string): Promise<Usage[]> {
  return (await readUsage(tx, row, { endedAt: now, suspended: false }, now)).slice(-1);
}

async function readUsage(
  tx: Transaction,
  row: VmRow,
  end: { endedAt: string; suspended: boolean },
  now: string,
): Promise<Usage[]> {
  const startedAt = row.startedAt?.toISOString() ?? null;
  const resumedAt = row.resumedAt?.toISOString() ?? null;
  return usageByHost({ ...row, startedAt, resumedAt, ...end }, await readResidencies(tx, row.id), now);
}
