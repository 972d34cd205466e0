import type { ErrorCode } from '../../../model/errors.ts';
import type { HostId, VmId } from '../../../model/ids.ts';
import { type EndCause, endings } from '../../../model/vm.ts';
import { StoredVmRequest } from '../../../model/vm-request.ts';
import { isUnpaid } from '../../market/unpaid.ts';
import { isoNow, isoOf, type LedgerDeps, type Transaction } from '../../transaction.ts';
import { lockVm } from '../vm-row.ts';
import { endError, writeDomainEnd } from './end-domain.ts';

/** A guest that crashes sooner after its start would crash again and again. */
const shortLifeMs = 60_000;

/**
 * Requests the start of a standalone VM whose domain has ended, where its owner wants it always running: after a restart of
 * its host, and after a crash. A guest that has powered itself off stays off, and so does a VM whose money has ended.
 * @param begun when its domain began
 */
export async function requestRestart(
  tx: Transaction,
  { id, cause, begun, now }: { id: VmId; cause: EndCause; begun: Date | null; now: string },
): Promise<boolean> {
  const { order, endedAt, removalRequestedAt, leaseId } = await tx.vm.findUniqueOrThrow({ where: { id } });
  if (order === null || removalRequestedAt !== null || StoredVmRequest.parse(order).restart === 'never') return false;
  if (cause === 'poweredOff' || cause === 'ended' || (await isUnpaid(tx, leaseId))) return false;
  const lived = begun === null || endedAt === null ? 0 : endedAt.getTime() - begun.getTime();
  if (cause === 'crashed' && lived < shortLifeMs) return false;
  await tx.$executeRaw`UPDATE "Vm" SET operation = 'reboot', "operationAt" = ${now}::timestamptz WHERE id = ${id} AND operation IS NULL`;
  return true;
}

/**
 * The same, once an operation that has found its VM's domain ended is over. A life that began before the operation, and was
 * ended by it, is told by its residency; after a start that failed, or a restoration, there is none.
 * @param code the error of the operation
 */
export async function requestRestartAfterOperation(
  tx: Transaction,
  { id, code, now }: { id: VmId; code: ErrorCode; now: string },
): Promise<void> {
  const cause = (Object.keys(endings) as EndCause[]).find((one) => endings[one].code === code);
  if (cause === undefined) return;
  const lives = await tx.$queryRaw<{ begun: Date | null }[]>`
    SELECT COALESCE(s.since, v."startedAt") AS begun FROM "Vm" v JOIN "VmStay" s ON s."vmId" = v.id AND s.generation = v.generation
    WHERE v.id = ${id}`;
  await requestRestart(tx, { id, cause, begun: lives[0]?.begun ?? null, now });
}

/**
 * A host was restarted: none of its domains has outlived that. A VM on which a saga is at work is left to that. Returns the
 * VMs whose workflows to notify.
 * @param bootedAgoMs how long ago the host was booted; null: its worker doesn't say
 */
export async function endDomainsOfHost(
  deps: LedgerDeps,
  tx: Transaction,
  host: HostId,
  bootedAgoMs: number | null,
): Promise<VmId[]> {
  const now = isoNow(deps);
  const endedAt = bootedAgoMs === null ? now : isoOf(deps.clock() - bootedAgoMs);
  const rows = await tx.$queryRaw<{ id: VmId }[]>`
    SELECT v.id FROM "Vm" v WHERE v."hostId" = ${host} AND v."order" IS NOT NULL AND v.operation IS NULL
      AND v.state IN ('running', 'paused')
      AND NOT EXISTS (SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck') AND m.reserved)
    ORDER BY v.id`;
  for (const { id } of rows) {
    const row = await lockVm(tx, id);
    await writeDomainEnd(tx, row, { error: endError('hostRestarted', row), endedAt, now });
    await requestRestart(tx, { id, cause: 'hostRestarted', begun: null, now });
  }
  return rows.map(({ id }) => id);
}
