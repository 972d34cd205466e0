import type { VmBoot } from '../../contracts/ledger.ts';
import type { Transaction } from '../transaction.ts';

/** Records whether VMs booted cold or from a template, for their owners and the metrics. */
export async function recordBoots(tx: Transaction, boots: VmBoot[]): Promise<void> {
  const rows = boots.map(({ vm, boot }) => ({ vm, boot: boot.kind, why: boot.kind === 'cold' ? boot.why : null }));
  await tx.$executeRaw`
    UPDATE "Vm" v SET boot = b.boot, "bootWhy" = b.why
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS b(vm text, boot text, why text)
    WHERE v.id = b.vm AND (v.boot, v."bootWhy") IS DISTINCT FROM (b.boot, b.why)`;
}
