import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { HostLabels } from '../../model/placement/rules.ts';
import type { Ledger } from '../client.ts';
import { readInPlaceOperations, releaseInPlace } from '../drains/suspended-in-place.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { findHost, type HostRecord } from './read-hosts.ts';

interface HostChangeRequest {
  /** Whether new work may be placed on it. */
  schedulable?: boolean | undefined;
  acceptsMigrations?: boolean | undefined;
  /** null: as the site's. */
  heartbeatS?: number | null | undefined;
  /** Whether the balancer may move VMs to it, and away. */
  balance?: boolean | undefined;
  /** All of them. */
  labels?: HostLabels | undefined;
}

/**
 * Requests the restoration of VMs that drains have suspended on the host, before other VMs are placed in the capacity
 * that they need. Throws conflict while one of them is still being suspended.
 */
async function releaseSuspended(tx: Transaction, host: string, nowMs: number): Promise<VmId[]> {
  await lockPlacement(tx);
  const drains = await tx.drain.findMany({
    where: { hostId: host, finishedAt: { not: null }, suspensions: { some: { releasedAt: null } } },
    select: { id: true },
  });
  const ids = drains.map(({ id }) => id);
  const ending = await readInPlaceOperations(tx, ids, 'suspend');
  if (ending.length > 0)
    throw new BerthError('conflict', `${ending.join(', ')} on ${host} are still being suspended: open it when that is over`);
  return releaseInPlace(tx, ids, nowMs);
}

/**
 * Whether opening the host opens it to migrations as well: its last drain closed it to both, and found it open to migrations.
 */
async function reopensToMigrations(tx: Transaction, host: string): Promise<boolean> {
  const rows = await tx.$queryRaw<{ reopens: boolean }[]>`
    SELECT d."wasAccepting" AS reopens FROM "Drain" d JOIN "Host" h ON h.id = d."hostId"
    WHERE h.id = ${host} AND NOT h.schedulable AND NOT h."acceptsMigrations" ORDER BY d.number DESC LIMIT 1`;
  return rows[0]?.reopens ?? false;
}

/**
 * Changes what a host accepts. Throws not-found, and conflict for a host that is being drained: a trigger of the ledger
 * refuses, and names the drain.
 * @returns the host after the change, and the VMs whose workflows have to be notified: their restoration was requested
 */
export async function changeHost(
  ledger: Ledger,
  id: string,
  { schedulable, acceptsMigrations, heartbeatS, balance, labels }: HostChangeRequest,
  nowMs: number,
): Promise<{ host: HostRecord; restored: VmId[] }> {
  const work = async (tx: Transaction): Promise<{ host: HostRecord; restored: VmId[] }> => {
    // No placement is decided meanwhile by the labels of before.
    if (labels !== undefined) await lockPlacement(tx);
    const restored = schedulable === true ? await releaseSuspended(tx, id, nowMs) : [];
    const accepts = acceptsMigrations ?? (schedulable === true && (await reopensToMigrations(tx, id)) ? true : undefined);
    const data = {
      ...(schedulable !== undefined && { schedulable }),
      ...(accepts !== undefined && { acceptsMigrations: accepts }),
      ...(heartbeatS !== undefined && { heartbeatS }),
      ...(balance !== undefined && { balance }),
      ...(labels !== undefined && { labels }),
    };
    await tx.host.updateMany({ where: { id, removedAt: null }, data });
    return { host: await findHost(tx, id), restored };
  };
  return inTransaction(ledger, work, requestLimits);
}
