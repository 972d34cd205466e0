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

/** The residencies that have ended, in their order. */
export async function readResidencies(tx: Transaction, id: VmId): Promise<Residency[]> {
  return tx.$queryRaw<Residency[]>`
    SELECT s."hostId", g.provider, to_json(s.since)#>>'{}' AS since, to_json(s.until)#>>'{}' AS until
    FROM "VmStay" s JOIN "Host" g ON g.id = s."hostId" WHERE s."vmId" = ${id} ORDER BY s.generation`;
}

/** The usage of the residency that ends now; events have told those before it. */
export async function lastUsage(tx: Transaction, row: VmRow, now: string): Promise<Usage[]> {
  const residencies = await readResidencies(tx, row.id);
  const startedAt = row.startedAt?.toISOString() ?? null;
  const resumedAt = row.resumedAt?.toISOString() ?? null;
  return usageByHost({ ...row, startedAt, endedAt: now, resumedAt, suspended: false }, residencies, now).slice(-1);
}
