import { BerthError } from '../../model/errors.ts';
import type { PublicPorts } from '../../model/network/published-port.ts';
import type { QuotaLimits } from '../../model/owners/quota.ts';
import type { VmOperation } from '../../model/vm-request.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { openBill } from '../market/open-bill.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import { withinQuotas } from '../owners/quotas.ts';
import { insertPorts } from '../ports/insert-ports.ts';
import type { Transaction } from '../transaction.ts';
import { acceptOperation, acceptVm, type VmAcceptance } from './accept-vm.ts';
import { findVm, type VmRecord } from './read-vms.ts';

const ofOrder = (index: number): string => `/ports/${index}/publicPort`;

/** Exact: an owner's acceptances of VMs are serialized. */
async function refuseTooManyVms(tx: Transaction, ownerId: string, maxVms: number): Promise<void> {
  await lockOwner(tx, 'vms', ownerId);
  const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { maxVms: true } });
  const limit = owner.maxVms ?? maxVms;
  const count = await tx.vm.count({ where: { ownerId, taskId: null, state: { not: 'removed' } } });
  if (count >= limit) throw new BerthError('quota-exceeded', `This owner has ${count} VMs, of at most ${limit}; delete some`);
}

/**
 * Accepts a standalone VM once for each idempotency key. Throws quota-exceeded, and what acceptVm, insertPorts and openBill
 * throw.
 * @param vm `quotas`: the site's limits, for an owner whose row says nothing; `publicPorts`: where its ports are published
 */
export async function acceptVmOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  vm: VmAcceptance & { keyId: string; quotas: QuotaLimits; publicPorts: PublicPorts },
  answer: (vm: VmRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    await refuseTooManyVms(tx, vm.owner, vm.quotas.vms);
    const { owner, order, keyId, publicPorts, nowMs } = vm;
    const { inserted: id, hasPrices } = await withinQuotas(tx, owner, { limits: vm.quotas, nowMs }, async () => {
      const accepted = await acceptVm(tx, vm);
      await insertPorts(tx, { owner, vms: [accepted], ports: order.ports, site: publicPorts, nowMs, pointer: ofOrder });
      return accepted;
    });
    if (hasPrices || order.quote !== undefined || order.market !== undefined) {
      const { leaseId } = await tx.vm.findUniqueOrThrow({ where: { id }, select: { leaseId: true } });
      await openBill(tx, { owner, lease: leaseId!, subject: id, quote: order.quote, market: order.market, keyId, nowMs });
    }
    return answer(await findVm(tx, vm.owner, id));
  });
}

/**
 * Accepts an operation on a VM once for each idempotency key. Throws what acceptOperation throws.
 * @param answer `begins`: false when the VM is in the operation's state already
 */
export async function acceptOperationOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { id, operation, nowMs }: { id: string; operation: VmOperation; nowMs: number },
  answer: (vm: VmRecord, begins: boolean) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const begins = await acceptOperation(tx, id, operation, nowMs);
    return answer(await findVm(tx, null, id), begins);
  });
}

/** Notes that a VM's removal was requested; a repeat keeps the first time. */
export async function changeVmRemovalRequested(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  await ledger.vm.updateMany({ where: { id, removalRequestedAt: null }, data: { removalRequestedAt: new Date(nowMs) } });
}
