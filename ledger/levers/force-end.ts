import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId, ImageId, TaskId, VmId } from '../../model/ids.ts';
import type { MigrationHost, MigrationId } from '../../model/migration.ts';
import { isTerminal } from '../../model/states.ts';
import type { Ledger } from '../client.ts';
import { type DrainRecord, findDrain } from '../drains/read-drains.ts';
import { findImageById, type ImageRecord } from '../images/read-images.ts';
import { findMigration, type MigrationRecord } from '../migrations/read-migrations.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { findTask, type TaskRecord } from '../tasks/read-tasks.ts';
import { inTransaction, isoOf, requestLimits, type Transaction } from '../transaction.ts';
import { findVm, type VmRecord } from '../vms/read-vms.ts';
import { endDrain } from './end-drain.ts';
import { endBuild } from './end-image.ts';
import { endMigration } from './end-migration.ts';
import { endTaskWithVms } from './end-task.ts';
import { endVm, type RecordEnd } from './end-vm.ts';

/** An operator's order to end a record, whatever its workflow and its hosts say. */
export interface ForceEnd {
  /** The operator's owner id. */
  by: string;
  reason: string | null;
  nowMs: number;
}

/** The record after its end, and the hosts that have to confirm it. */
export interface ForceEndResult<T> {
  record: T;
  fenced: HostId[];
}

/** One transaction under the placement lock, which precedes every row's lock. */
function force<T>(
  ledger: Ledger,
  order: ForceEnd,
  act: (tx: Transaction, ending: RecordEnd & { by: string }) => Promise<T>,
): Promise<T> {
  const { by, reason, nowMs } = order;
  const error = { code: 'force-ended' as const, message: `An operator has ended it${reason === null ? '' : `: ${reason}`}` };
  const work = async (tx: Transaction): Promise<T> => {
    await lockPlacement(tx);
    return act(tx, { error, now: isoOf(nowMs), lost: null, by });
  };
  return inTransaction(ledger, work, requestLimits);
}

/** A task ends as failed, with its completion event. A repeat changes nothing. Throws not-found. */
export async function changeTaskForceEnded(ledger: Ledger, id: string, order: ForceEnd): Promise<ForceEndResult<TaskRecord>> {
  return force(ledger, order, async (tx, ending) => {
    await findTask(tx, null, id);
    const fenced = (await endTaskWithVms(tx, id as TaskId, ending)) ?? [];
    return { record: await findTask(tx, null, id), fenced };
  });
}

/**
 * A standalone VM, or one that the end of its task or of its build has left behind, ends as removed. A repeat changes nothing.
 * Throws not-found, and conflict for a VM whose task or build is under way: that is to be ended.
 */
export async function changeVmForceEnded(ledger: Ledger, id: string, order: ForceEnd): Promise<ForceEndResult<VmRecord>> {
  return force(ledger, order, async (tx, ending) => {
    const { taskId } = await findVm(tx, null, id);
    const task = taskId === null ? null : await tx.task.findUniqueOrThrow({ where: { id: taskId }, select: { state: true } });
    if (task !== null && !isTerminal(task.state))
      throw new BerthError('conflict', `VM ${id} belongs to the task ${taskId}, which is ${task.state}: force the end of that`);
    const build = await tx.image.findFirst({ where: { buildVmId: id, state: 'building' }, select: { name: true } });
    if (build !== null) throw new BerthError('conflict', `VM ${id} builds the image ${build.name}: force the end of that`);
    const fenced = await endVm(tx, id as VmId, ending);
    return { record: await findVm(tx, null, id), fenced };
  });
}

/** Throws not-found, and what endMigration throws. @param vmAt where the operator has found the VM */
export async function changeMigrationForceEnded(
  ledger: Ledger,
  id: string,
  vmAt: MigrationHost,
  order: ForceEnd,
): Promise<ForceEndResult<MigrationRecord>> {
  return force(ledger, order, async (tx, ending) => {
    await findMigration(tx, null, id);
    const fenced = (await endMigration(tx, id as MigrationId, vmAt, ending)) ?? [];
    return { record: await findMigration(tx, null, id), fenced };
  });
}

/** A drain ends as incomplete, or as cancelled where its host was empty already. A repeat changes nothing. Throws not-found. */
export async function changeDrainForceEnded(ledger: Ledger, id: string, order: ForceEnd): Promise<DrainRecord> {
  return force(ledger, order, async (tx, ending) => {
    await endDrain(tx, id as DrainId, ending);
    return findDrain(tx, id);
  });
}

/** A build ends as failed. Throws conflict for an image that is not being built. */
export async function changeBuildForceEnded(
  ledger: Ledger,
  image: ImageRecord,
  order: ForceEnd,
): Promise<ForceEndResult<ImageRecord>> {
  return force(ledger, order, async (tx, ending) => {
    const fenced = await endBuild(tx, image.id as ImageId, ending);
    if (fenced === null)
      throw new BerthError('conflict', `Image ${image.name} is ${image.state}: only a build can be ended by force`);
    return { record: await findImageById(tx, image.id), fenced };
  });
}
