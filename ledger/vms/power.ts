import type { Notification } from '../../contracts/ledger.ts';
import type { OperationTarget } from '../../contracts/ledger-vm.ts';
import { BerthError } from '../../model/errors.ts';
import { type VmRestoredData, type VmSuspendedData, vmEventTypes } from '../../model/events.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import type { TaskError, Usage } from '../../model/task.ts';
import { writeEvent } from '../events/write.ts';
import { recordPowerTiming } from '../migrations/measurements.ts';
import { lockPlacement, placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { type Residency, usageByHost } from './usage.ts';
import { readPlacedVm, vmSpecs } from './vm-specs.ts';

/** A VM as its operations need it. */
export interface VmRow {
  id: VmId;
  ownerId: string;
  name: string;
  taskId: TaskId | null;
  leaseId: string | null;
  address: string | null;
  state: VmState;
  generation: number;
  hostId: HostId;
  provider: string;
  vcpus: number;
  memoryMiB: number;
  startedAt: Date | null;
  endedAt: Date | null;
  resumedAt: Date | null;
  asleep: boolean;
  /** When what its owner or a drain asked for was asked; null: nothing was, or it belongs to a task. */
  operationAt: Date | null;
  moving: boolean;
}

/** Locks a VM's row to the end of the transaction. Throws not-found. */
export async function lockVm(tx: Transaction, id: VmId): Promise<VmRow> {
  const rows = await tx.$queryRaw<VmRow[]>`
    SELECT v.*, h.provider, EXISTS (
      SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')) AS moving
    FROM "Vm" v LEFT JOIN "Host" h ON h.id = v."hostId" WHERE v.id = ${id} FOR UPDATE OF v`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
  return rows[0];
}

async function readPowerOperation(deps: LedgerDeps, tx: Transaction, id: VmId): Promise<OperationTarget> {
  const placed = await readPlacedVm(tx, id);
  const vm = vmSpecs(deps, placed).find((one) => one.id === id);
  if (vm === undefined) throw new BerthError('internal', `BUG: VM ${id} is none of those that were placed with it`);
  const home = placed.hosts.find((host) => host.id === vm.home);
  return { vm, diskHostAddress: vm.home === vm.host ? null : (home?.address ?? null) };
}

/**
 * Begins an operation on a VM where it runs: a state of its own and a new generation, so that nothing that was asked of
 * its host before can act any more. A repeat finds it begun. Throws conflict from any other state, and while it moves.
 */
export async function beginPowerOperation(
  deps: LedgerDeps,
  id: VmId,
  from: VmState,
  state: VmState,
  participle: string,
): Promise<OperationTarget> {
  return inTransaction(deps.ledger, async (tx) => {
    // Restoring takes room, and what is promised grows under this lock alone.
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state !== state || from === state) {
      if (row.state !== from)
        throw new BerthError('conflict', `VM ${id} is ${row.state}: only one that is ${from} can be ${participle}`);
      if (row.moving)
        throw new BerthError('conflict', `VM ${id} moves: it cannot be ${participle} before its migration has ended`);
      await tx.$executeRaw`UPDATE "Vm" SET state = ${state}::"VmState", generation = generation + 1 WHERE id = ${id}`;
    }
    return readPowerOperation(deps, tx, id);
  });
}

/** running → suspending; the file for its memory takes room on its host's disk from here on, or no-capacity is thrown. */
export const beginSuspension = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, 'running', 'suspending', 'suspended');

/**
 * suspended → restoring: it takes processors and memory again, where it was suspended. Throws no-capacity when they were
 * given to others since.
 */
export const beginRestoration = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, 'suspended', 'restoring', 'restored');

export const vmEventFields = (row: VmRow) => ({
  vm: row.id,
  name: row.name,
  owner: row.ownerId,
  task: row.taskId,
  host: row.hostId,
  provider: row.provider,
  generation: row.generation,
});

/** What it used since its start or since it came back: the stays before this one have been told. */
export async function lastUsage(tx: Transaction, row: VmRow, now: string): Promise<Usage[]> {
  const stays = await readResidencies(tx, row.id);
  const startedAt = row.startedAt?.toISOString() ?? null;
  const resumedAt = row.resumedAt?.toISOString() ?? null;
  return usageByHost({ ...row, startedAt, endedAt: now, resumedAt, suspended: false }, stays, now).slice(-1);
}

/** Where it ran before, in their order. */
export async function readResidencies(tx: Transaction, id: VmId): Promise<Residency[]> {
  return tx.$queryRaw<Residency[]>`
    SELECT s."hostId", g.provider, to_json(s.since)#>>'{}' AS since, to_json(s.until)#>>'{}' AS until
    FROM "VmStay" s JOIN "Host" g ON g.id = s."hostId" WHERE s."vmId" = ${id} ORDER BY s.generation`;
}

/** suspending → suspended: it takes neither processors nor memory. Once; returns whom what was freed was given to. */
export async function commitSuspension(deps: LedgerDeps, id: VmId): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state === 'suspending') {
      const data: VmSuspendedData = { ...vmEventFields(row), suspendedAt: now, usage: await lastUsage(tx, row, now) };
      await tx.$executeRaw`
        INSERT INTO "VmStay" ("vmId", generation, "hostId", since, until)
        VALUES (${id}, ${row.generation}, ${row.hostId}, ${row.resumedAt?.toISOString() ?? null}::timestamptz, ${now}::timestamptz)`;
      await tx.$executeRaw`UPDATE "Vm" SET state = 'suspended', "resumedAt" = NULL WHERE id = ${id}`;
      await recordPowerTiming(tx, 'suspend', row, now);
      const fact = { type: vmEventTypes.suspended, subject: id, owner: row.ownerId, time: now, data } as const;
      await writeEvent(tx, fact, row.generation);
    } else refuseUnlessState(row, 'suspended', 'suspended');
    return (await placeWaiting(deps, tx)).notify;
  });
}

/** restoring → running. Once. */
export async function commitRestoration(deps: LedgerDeps, id: VmId): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'restoring') return refuseUnlessState(row, 'running', 'restored');
    const data: VmRestoredData = { ...vmEventFields(row), restoredAt: now };
    await recordPowerTiming(tx, 'resume', row, now);
    await tx.$executeRaw`UPDATE "Vm" SET state = 'running', "resumedAt" = ${now}::timestamptz, problem = NULL WHERE id = ${id}`;
    const fact = { type: vmEventTypes.restored, subject: id, owner: row.ownerId, time: now, data } as const;
    await writeEvent(tx, fact, row.generation);
  });
}

/**
 * What was begun came to nothing: a VM that should be suspended runs, one that should run is suspended. `lost`: it is
 * neither, which is for an operator. Returns whom what was freed was given to.
 */
export async function rollBackSuspension(deps: LedgerDeps, id: VmId, why: TaskError, lost: boolean): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    const back = lost ? 'stuck' : row.state === 'suspending' ? 'running' : 'suspended';
    if (row.state === 'suspending' || row.state === 'restoring')
      await tx.$executeRaw`
        UPDATE "Vm" SET state = ${back}::"VmState", problem = ${JSON.stringify(why)}::jsonb WHERE id = ${id}`;
    return (await placeWaiting(deps, tx)).notify;
  });
}

function refuseUnlessState(row: VmRow, state: VmState, act: string): void {
  if (row.state !== state) throw new BerthError('conflict', `VM ${row.id} is ${row.state}; it cannot be ${act}`);
}
