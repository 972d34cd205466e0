import type { Ledger } from '../client.ts';
import { findVm, type VmRecord } from '../vms/read-vms.ts';

interface VmChangeRequest {
  /** The balancer never moves it. */
  pinned?: boolean | undefined;
  /** The balancer moves it only for much. */
  keep?: boolean | undefined;
}

/** @param owner whose VM; null: any owner's. Throws not-found. */
export async function changeVm(ledger: Ledger, owner: string | null, id: string, change: VmChangeRequest): Promise<VmRecord> {
  await findVm(ledger, owner, id);
  const { pinned, keep } = change;
  await ledger.vm.update({
    where: { id },
    data: { ...(pinned !== undefined && { pinned }), ...(keep !== undefined && { keep }) },
    select: { id: true },
  });
  return findVm(ledger, owner, id);
}
