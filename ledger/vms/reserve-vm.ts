import type { Notification } from '../../contracts/ledger.ts';
import type { PrefetchTarget, VmPlacement } from '../../contracts/ledger-placement.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { Refusal } from '../../model/task.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { beyondQueue, placeUnderLock, placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, type LedgerDeps } from '../transaction.ts';
import { prefetchFor, readPlacedVm } from './placed-vms.ts';
import { lockVm } from './vm-row.ts';
import { readVmSpec } from './vm-specs.ts';

interface PromisedTerm {
  startAt: Date;
  endAt: Date;
  plannedHosts: HostId[];
}

/** The promise of a VM whose lease has a fixed start. Throws promise-broken where its whole time has passed without hosts for it. */
async function readPromise(deps: LedgerDeps, id: VmId): Promise<PromisedTerm | null> {
  const rows = await deps.ledger.$queryRaw<PromisedTerm[]>`
    SELECT l."startAt", l."endAt", l."plannedHosts" FROM "Vm" v JOIN "Lease" l ON l.id = v."leaseId"
    WHERE v.id = ${id} AND l."startAt" IS NOT NULL`;
  const promise = rows[0];
  if (promise === undefined) return null;
  const { startAt, endAt } = promise;
  if (endAt.getTime() <= deps.clock())
    throw new BerthError(
      'promise-broken',
      `VM ${id} was promised from ${startAt.toISOString()} on, and until ${endAt.toISOString()} there were no hosts for it: see which were away`,
    );
  return promise;
}

async function readPrefetch(deps: LedgerDeps, id: VmId, plannedHosts: HostId[]): Promise<PrefetchTarget | null> {
  return prefetchFor({ ...(await readPlacedVm(deps.ledger, id, { hosts: plannedHosts })), plannedHosts });
}

/**
 * Places the queue, and returns this VM's placement or why it waits. Throws does-not-fit when the site could never hold
 * it, and promise-broken.
 */
export async function reserveVm(deps: LedgerDeps, id: VmId): Promise<VmPlacement> {
  const isPlaced = async () => {
    const row = await deps.ledger.vm.findUniqueOrThrow({ where: { id }, select: { state: true } });
    return row.state !== 'pending';
  };
  if (await isPlaced()) return { placed: true, vm: await readVmSpec(deps, deps.ledger, id) };
  const promise = await readPromise(deps, id);
  const pass = await placeUnderLock(deps);
  const waiting = async (refusal: Refusal): Promise<VmPlacement> => {
    const term = promise && { startAt: promise.startAt.toISOString(), endAt: promise.endAt.toISOString() };
    const prefetch = promise && (await readPrefetch(deps, id, promise.plannedHosts));
    return { placed: false, refusal, term, planActive: pass.planned, prefetch };
  };
  const verdict = pass.verdicts.get(id);
  if (verdict?.kind === 'impossible')
    throw new BerthError(
      'does-not-fit',
      `VM ${id} is larger than this site's ${verdict.refusal.hosts} hosts could hold, even empty`,
    );
  if (verdict?.kind === 'waits') return waiting(verdict.refusal);
  if (await isPlaced()) return { placed: true, vm: await readVmSpec(deps, deps.ledger, id) };
  return waiting(beyondQueue(pass));
}

/** Returns a VM to the queue whose host became unreachable before a domain was requested. Throws conflict when it may have a domain. */
export async function requeueVm(deps: LedgerDeps, id: VmId): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state === 'reserved') await tx.$executeRaw`UPDATE "Vm" SET state = 'pending', "placedAt" = NULL WHERE id = ${id}`;
    else if (row.state !== 'pending')
      throw new BerthError('conflict', `VM ${id} is ${row.state}: it cannot go back to the queue`);
    return (await placeWaiting(deps, tx)).notify;
  });
}
