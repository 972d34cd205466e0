import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { changedRules, groupsOf, type RuleChange } from '../../model/placement/rules.ts';
import type { Ledger } from '../client.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { storedRules } from '../placement/read-rules.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { findVm, type VmRecord } from '../vms/read-vms.ts';

interface VmChangeRequest extends RuleChange {
  /** The balancer never moves it. */
  pinned?: boolean | undefined;
  /** The balancer moves it only for much. */
  keep?: boolean | undefined;
}

/**
 * Changes how a VM is treated from now on; where it is, it stays. Throws not-found, and conflict for rules of a VM that has a
 * promise and no host yet: its hosts are promised without them.
 * @param owner whose VM; null: any owner's
 */
export async function changeVm(ledger: Ledger, owner: string | null, id: string, change: VmChangeRequest): Promise<VmRecord> {
  return inTransaction(ledger, (tx) => changeIn(tx, owner, id, change), requestLimits);
}

async function changeIn(tx: Transaction, owner: string | null, id: string, change: VmChangeRequest): Promise<VmRecord> {
  const { pinned, keep, ...ruled } = change;
  const hasRules = Object.values(ruled).some((list) => list !== undefined);
  // No placement is decided meanwhile by the rules of before.
  if (hasRules) await lockPlacement(tx);
  const vm = await findVm(tx, owner, id);
  if (hasRules && vm.state === 'pending' && vm.lease?.startAt != null)
    throw new BerthError('conflict', `VM ${id} has a promise: its rules can be changed when it is on a host`);
  const rules = changedRules(storedRules.parse(vm.rules), ruled);
  await tx.vm.update({
    where: { id },
    data: {
      ...(pinned !== undefined && { pinned }),
      ...(keep !== undefined && { keep }),
      ...(hasRules && { rules: rules ?? Prisma.DbNull, groups: groupsOf(vm.ownerId, rules) }),
    },
    select: { id: true },
  });
  return findVm(tx, owner, id);
}
