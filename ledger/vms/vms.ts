import type { CustomizeVm } from '../../contracts/host.ts';
import type { Notification } from '../../contracts/ledger.ts';
import type { VmPlacement } from '../../contracts/ledger-placement.ts';
import type { DrainKey, OperationTarget, VmDesired, VmRemoval } from '../../contracts/ledger-vm.ts';
import { BerthError } from '../../model/errors.ts';
import {
  type LeaseEventType,
  leaseEventTypes,
  type VmRemovedData,
  type VmStartedData,
  type VmStoppedData,
  vmEventTypes,
} from '../../model/events.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import type { Refusal, TaskError } from '../../model/task.ts';
import type { Boot, VmSpec } from '../../model/vm.ts';
import { stagedFile, unboundedDurationS, type VmOperation, VmRequest } from '../../model/vm-request.ts';
import { writeEvent } from '../events/write.ts';
import { fileUrl } from '../images/image-refs.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import { lockPlacement, placeWaiting } from '../placement/place-queue.ts';
import { recordBoots } from '../tasks/advance-task.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { beginPowerOperation, lastUsage, lockVm, readResidencies, vmEventFields } from './power.ts';
import { usageByHost, usageTotals } from './usage.ts';
import { prefetchFor, readPlacedVm, vmSpecs } from './vm-specs.ts';

/** Reads what is wanted, and records that there is a workflow. Throws not-found. */
export async function loadVmDesired(deps: LedgerDeps, id: VmId): Promise<VmDesired> {
  const rows = await deps.ledger.$queryRaw<(Omit<VmDesired, 'leaseEndsAt'> & { leaseEndsAt: Date | null })[]>`
    UPDATE "Vm" v SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "order" IS NOT NULL
    RETURNING "ownerId" AS owner, state, operation, "removalRequestedAt" IS NOT NULL AS remove, "hostKey" IS NOT NULL AS customized,
      (SELECT COALESCE(l."endAt", l."startedAt" + l."durationS" * interval '1 second') FROM "Lease" l
        WHERE l.id = v."leaseId" AND l."durationS" < ${unboundedDurationS}) AS "leaseEndsAt"`;
  const row = rows[0];
  if (row === undefined) throw new BerthError('not-found', `There is no VM ${id} that stands alone in the ledger`);
  return { ...row, leaseEndsAt: row.leaseEndsAt?.toISOString() ?? null };
}

async function readVmSpec(deps: LedgerDeps, tx: Transaction, id: VmId): Promise<VmSpec> {
  const vm = vmSpecs(deps, await readPlacedVm(tx, id)).find((one) => one.id === id);
  if (vm === undefined) throw new BerthError('internal', `BUG: VM ${id} is none of those that were placed with it`);
  return vm;
}

interface PromisedTerm {
  startAt: Date;
  endAt: Date;
  plannedHosts: HostId[];
}

/** Of a lease with a fixed start. Throws promise-broken when its whole time went by while there were no hosts for it. */
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

/**
 * Places what waits and says what became of this VM. Throws does-not-fit when the site could never hold it, and
 * promise-broken.
 */
export async function reserveVm(deps: LedgerDeps, id: VmId): Promise<VmPlacement> {
  const isPlaced = async () => {
    const row = await deps.ledger.vm.findUniqueOrThrow({ where: { id }, select: { state: true } });
    return row.state !== 'pending';
  };
  if (await isPlaced()) return { placed: true, vm: await readVmSpec(deps, deps.ledger, id) };
  const promise = await readPromise(deps, id);
  const pass = await inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    return placeWaiting(deps, tx);
  });
  const waiting = async (refusal: Refusal): Promise<VmPlacement> => {
    const term = promise && { startAt: promise.startAt.toISOString(), endAt: promise.endAt.toISOString() };
    const prestage = promise && prefetchFor({ ...(await readPlacedVm(deps.ledger, id)), plannedHosts: promise.plannedHosts });
    return { placed: false, refusal, term, planActive: pass.planned, prefetch: prestage };
  };
  const verdict = pass.verdicts.get(id);
  if (verdict?.kind === 'impossible')
    throw new BerthError(
      'does-not-fit',
      `VM ${id} is larger than this site's ${verdict.refusal.hosts} hosts could hold, even empty`,
    );
  if (verdict?.kind === 'waits') return waiting(verdict.refusal);
  if (await isPlaced()) return { placed: true, vm: await readVmSpec(deps, deps.ledger, id) };
  return waiting({ hosts: pass.hosts, failed: { queue: pass.hosts } });
}

/** Its host fell silent before a domain was asked for: back to the queue. Throws conflict when it may have a domain. */
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

/** Once, and only of a lease with a promise. */
async function writePromisedLeaseEvent(tx: Transaction, lease: string | null, type: LeaseEventType, now: string): Promise<void> {
  if (lease === null || (await tx.lease.count({ where: { id: lease, startAt: { not: null } } })) === 0) return;
  await writeLeaseEvent(tx, lease, type, now);
}

/** creating → running, with its event, once; `startedAt` is the host's. From stopped it came back: usage counts from then. */
export async function recordVmStarted(deps: LedgerDeps, id: VmId, startedAt: string, boot: Boot): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'creating') return;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'running', problem = NULL, "endedAt" = NULL, "startedAt" = COALESCE("startedAt", ${startedAt}::timestamptz),
        "resumedAt" = CASE WHEN "startedAt" IS NULL THEN NULL ELSE ${now}::timestamptz END WHERE id = ${id}`;
    await recordBoots(tx, [{ vm: id, boot }]);
    const data: VmStartedData = {
      ...vmEventFields(row),
      address: row.address ?? '',
      startedAt: row.startedAt === null ? startedAt : now,
    };
    await writeEvent(tx, { type: vmEventTypes.started, subject: id, owner: row.ownerId, time: now, data }, row.generation);
    await writePromisedLeaseEvent(tx, row.leaseId, leaseEventTypes.started, now);
  });
}

/**
 * Its domain is gone, and nobody here ended it: the guest switched itself off, or died. Its disks stay. A task's VM has
 * lost what it was for, and is stuck; one that stands alone can be booted again.
 */
export async function recordVmMissing(deps: LedgerDeps, id: VmId, why: TaskError): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'running' && row.state !== 'paused') return;
    if (row.taskId !== null) {
      await tx.$executeRaw`UPDATE "Vm" SET state = 'stuck', problem = ${JSON.stringify(why)}::jsonb WHERE id = ${id}`;
      return;
    }
    const data: VmStoppedData = { ...vmEventFields(row), error: why, stoppedAt: now, usage: await lastUsage(tx, row, now) };
    await tx.$executeRaw`
      INSERT INTO "VmStay" ("vmId", generation, "hostId", since, until)
      VALUES (${id}, ${row.generation}, ${row.hostId}, ${row.resumedAt?.toISOString() ?? null}::timestamptz, ${now}::timestamptz)`;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'stopped', problem = ${JSON.stringify(why)}::jsonb, "endedAt" = ${now}::timestamptz, "resumedAt" = NULL
      WHERE id = ${id}`;
    await writeEvent(tx, { type: vmEventTypes.stopped, subject: id, owner: row.ownerId, time: now, data }, row.generation);
  });
}

/** A new generation for an operation that changes no state while it is under way. A repeat brings another: the last counts. */
export const beginOperation = (deps: LedgerDeps, id: VmId, operation: VmOperation): Promise<OperationTarget> => {
  const from = operation === 'resume' ? 'paused' : 'running';
  return beginPowerOperation(deps, id, from, from, `asked to ${operation}`);
};

/** stopped → creating, with a new generation: it boots again from its disks. */
export const beginStart = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, 'stopped', 'creating', 'started');

/**
 * What was wanted has happened, or came to nothing, which its owner is told. A repeat leaves alone what was asked for since.
 * Returns the drains that wait for it.
 */
export async function endOperation(
  deps: LedgerDeps,
  id: VmId,
  operation: VmOperation,
  to: VmState | null,
  error: TaskError | null,
): Promise<DrainKey[]> {
  const problem = error === null ? null : JSON.stringify(error);
  return inTransaction(deps.ledger, async (tx) => {
    await tx.$executeRaw`
      UPDATE "Vm" SET operation = NULL, "operationAt" = NULL,
        state = COALESCE(${to}::"VmState", state),
        problem = CASE WHEN state = 'stuck' THEN problem ELSE ${problem}::jsonb END
      WHERE id = ${id} AND operation = ${operation}::"VmOperation"`;
    return tx.$queryRaw<DrainKey[]>`
      SELECT d."hostId" AS host, d.number FROM "DrainSuspension" s JOIN "Drain" d ON d.id = s."drainId"
      WHERE s."vmId" = ${id} AND d."finishedAt" IS NULL ORDER BY d.id`;
  });
}

/** The order for its host, with fresh URLs. Throws conflict when it has no place. */
export async function issueVmSetup(deps: LedgerDeps, id: VmId): Promise<CustomizeVm> {
  const row = await deps.ledger.vm.findUniqueOrThrow({ where: { id }, select: { order: true } });
  const order = VmRequest.parse(row.order);
  const files = await deps.ledger.file.findMany({
    where: { id: { in: order.files.map(({ file }) => file) }, state: 'ready' },
    select: { id: true, sha256: true, sizeBytes: true },
  });
  const byId = new Map(files.map((file) => [file.id, file]));
  return {
    vm: await readVmSpec(deps, deps.ledger, id),
    user: order.user ?? null,
    files: order.files.map(({ path, file, mode }, index) => {
      const found = byId.get(file);
      if (found === undefined) throw new BerthError('input-unavailable', `The file ${file} for ${path} was deleted since`);
      const { sha256, sizeBytes } = found;
      const input = {
        path: stagedFile(index),
        url: fileUrl(deps, file),
        source: 'repository',
        sizeBytes: Number(sizeBytes),
        sha256,
      } as const;
      return { path, mode, input };
    }),
    firstBoot: order.firstBoot,
    swapMiB: order.swapMiB,
  };
}

/** Its guest is as it was ordered; by this public key its sshd is known. */
export async function recordVmCustomized(deps: LedgerDeps, id: VmId, hostKey: string): Promise<void> {
  await deps.ledger.vm.update({ where: { id }, data: { hostKey }, select: { id: true } });
}

/**
 * Nothing of it is left on a host: it is removed, with all that it used, once. Returns whom what was freed was given to.
 */
export async function finishVm(deps: LedgerDeps, id: VmId, { endedAt, error: why }: VmRemoval): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state !== 'removed') {
      const startedAt = row.startedAt?.toISOString() ?? null;
      const stopped = row.asleep || row.endedAt !== null;
      const resumedAt = row.resumedAt?.toISOString() ?? null;
      const end = endedAt ?? now;
      const usage = usageByHost(
        { ...row, startedAt, endedAt: end, resumedAt, suspended: stopped },
        await readResidencies(tx, id),
        now,
      );
      const data: VmRemovedData = { ...vmEventFields(row), error: why, startedAt, removedAt: now, usage, ...usageTotals(usage) };
      await tx.$executeRaw`
        UPDATE "Vm" SET state = 'removing' WHERE id = ${id} AND state NOT IN ('pending', 'reserved', 'removing')`;
      await tx.$executeRaw`
        UPDATE "Vm" SET state = 'removed', operation = NULL, "operationAt" = NULL, refusal = NULL,
          problem = ${why === null ? null : JSON.stringify(why)}::jsonb,
          "endedAt" = CASE WHEN "startedAt" IS NULL THEN NULL ELSE COALESCE("endedAt", ${end}::timestamptz) END WHERE id = ${id}`;
      await tx.$executeRaw`UPDATE "Lease" SET "endedAt" = ${now}::timestamptz WHERE id = ${row.leaseId}`;
      await writeEvent(tx, { type: vmEventTypes.removed, subject: id, owner: row.ownerId, time: now, data });
      await writePromisedLeaseEvent(tx, row.leaseId, leaseEventTypes.ended, now);
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}

/** So many are taken care of in one round. */
const batch = 100;

/** VMs for which no workflow has asked yet, or whose workflow has not heard for that long what is wanted. */
export async function listVmsToNotify(deps: LedgerDeps, olderThanS: number): Promise<{ id: VmId; started: boolean }[]> {
  const before = new Date(deps.clock() - olderThanS * 1000);
  const rows = await deps.ledger.$queryRaw<{ id: VmId; started: boolean }[]>`
    SELECT id, "workflowAt" IS NOT NULL AS started FROM "Vm"
    WHERE "order" IS NOT NULL AND state <> 'removed' AND (
      ("workflowAt" IS NULL AND "createdAt" < ${before}) OR "operationAt" < ${before} OR "removalRequestedAt" < ${before})
    ORDER BY "createdAt", id LIMIT ${batch}`;
  return rows;
}
