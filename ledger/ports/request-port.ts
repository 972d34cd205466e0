import { BerthError } from '../../model/errors.ts';
import type { PortRequest, PublicPorts } from '../../model/network/published-port.ts';
import type { QuotaLimits } from '../../model/owners/quota.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { withinQuota } from '../owners/quotas.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { insertPorts } from './insert-ports.ts';
import { findPort, type PortRecord } from './read-ports.ts';

interface PortAcceptance {
  /** The VM's. */
  owner: string;
  vm: string;
  request: PortRequest;
  site: PublicPorts;
  quotas: QuotaLimits;
  nowMs: number;
}

/** Of a VM that is not about to end; locked, so that it can't end before the port's row is there to be withdrawn with it. */
async function lockLivingVm(tx: Transaction, id: string): Promise<void> {
  const rows = await tx.$queryRaw<{ state: string; ends: boolean }[]>`
    SELECT state::text, state IN ('removing', 'removed') OR "removalRequestedAt" IS NOT NULL AS ends
    FROM "Vm" WHERE id = ${id} FOR NO KEY UPDATE`;
  const vm = rows[0];
  if (vm === undefined) throw new BerthError('not-found', `There is no VM ${id}`);
  if (vm.ends)
    throw new BerthError(
      'conflict',
      `VM ${id} is ${vm.state === 'removed' ? 'removed' : 'being removed'}: nothing of it is published`,
    );
}

/** Publishes a port once for each idempotency key. Throws what insertPorts throws, not-found, conflict and quota-exceeded. */
export async function acceptPortOnce(
  ledger: Ledger,
  idempotent: IdempotentRequest,
  { owner, vm, request, site, quotas, nowMs }: PortAcceptance,
  answer: (port: PortRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, idempotent, async (tx) => {
    // The owner's lock first: placement waits for VMs' rows, and what an owner's acceptances wait for is placement.
    const [id] = await withinQuota(tx, owner, 'ports', { limits: quotas, nowMs }, async () => {
      await lockLivingVm(tx, vm);
      return insertPorts(tx, { owner, vms: [vm], ports: [request], site, nowMs, pointer: () => '/publicPort' });
    });
    return answer(await findPort(tx, owner, vm, id!));
  });
}

/**
 * Withdraws a port. Its row ends when the active edge has confirmed that nothing leads there; at once where no edge can have
 * had it. Throws not-found.
 * @returns the port; null: it has ended
 */
export async function changePortWithdrawn(
  ledger: Ledger,
  owner: string | null,
  vm: string,
  id: string,
): Promise<PortRecord | null> {
  const work = async (tx: Transaction): Promise<PortRecord | null> => {
    await findPort(tx, owner, vm, id);
    const { count } = await tx.publishedPort.deleteMany({ where: { id, address: null, publishedAt: null } });
    if (count > 0) return null;
    await tx.publishedPort.updateMany({ where: { id, state: { not: 'removing' } }, data: { state: 'removing' } });
    return findPort(tx, owner, vm, id);
  };
  return inTransaction(ledger, work, requestLimits);
}
