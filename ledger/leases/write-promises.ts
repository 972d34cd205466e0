import type { SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import type { Transaction } from '../transaction.ts';

/** Writes the hosts that the plan has now for promises that have not begun. */
export async function writePromises(tx: Transaction, promises: SiteDecision['promises']): Promise<void> {
  if (promises.length === 0) return;
  await tx.$executeRaw`
    UPDATE "Lease" l SET "plannedHosts" = ARRAY(SELECT jsonb_array_elements_text(p.hosts)), bound = p.bound
    FROM jsonb_to_recordset(${JSON.stringify(promises)}::jsonb) AS p(lease text, hosts jsonb, bound boolean)
    WHERE l.id = p.lease`;
}
