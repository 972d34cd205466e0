import type { CancellationScope } from '@temporalio/workflow';
import type { ColdCopyFile, MigrateOutResult, PortableRecord, RemoveColdLeftover } from '../../contracts/host-migration.ts';
import type { HostId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { codeOf, domainEndOf, taskErrorOf } from '../durable/failure.ts';
import { cleanUpOrReconcile } from './clean-up.ts';
import { ColdCopyProgress } from './cold-copy-progress.ts';
import {
  abortReason,
  atSource,
  atTarget,
  earlierConsoleOf,
  type MigrationAttempt,
  type MigrationOutcome,
  type MigrationRun,
  noTransfer,
} from './migration-run.ts';
import { type PhaseRow, setPhaseBytes, trackPhase } from './phases.ts';
import { prepareTarget, runPrepare } from './prepare.ts';

export const coldPhases: readonly PhaseRow[] = [
  {
    name: 'prepare',
    does: 'brings the image to the target, and offers the cached chunks of old versions',
    undoneBy: 'removeColdLeftover at the target',
  },
  {
    name: 'suspend',
    does: 'saves the memory into a file at the source, unless the VM is suspended or has ended',
    undoneBy: 'restoreVm at the source',
  },
  {
    name: 'copy',
    does: 'packs the files at the source, unpacks them at the target',
    undoneBy: 'removeColdLeftover at the target',
  },
  {
    name: 'restore',
    does: 'runs the VM at the target, unless it was suspended or had ended',
    undoneBy: 'nothing, once its guest has executed anything',
  },
  {
    name: 'verify',
    does: 'asks the target whether the guest has executed anything',
    undoneBy: 'nothing: it acts only where the result is certain',
  },
];

/**
 * Migrates a VM as files: its memory, and its disks where they are to follow. It is restored at the source only after the
 * target has answered that the guest executed nothing there, and no attempt to restore it there can begin any more.
 */
export async function migrateCold(run: MigrationRun, root: CancellationScope): Promise<MigrationAttempt> {
  const { source, target } = run;
  const result: MigrateOutResult = { ...noTransfer };
  const prepared = await runPrepare(run, root, () => prepareCold(run));
  if ('error' in prepared) return prepared;
  try {
    const pausedFromMs = Date.now();
    if (hasDomain(run)) {
      run.cold.suspended = true;
      await trackPhase(run, 'suspend', () => source.suspendVm(atSource(run)));
    }
    result.bytes = await trackPhase(run, 'copy', () => copyCold(run, prepared.record, prepared.chunks));
    setPhaseBytes(run, 'copy', result.bytes);
    if (hasDomain(run)) {
      run.cold.restoring = true;
      await trackPhase(run, 'restore', () => target.restoreVm({ vm: atTarget(run), diskHostAddress: diskHostAddress(run) }));
      result.downtimeMs = Date.now() - pausedFromMs;
    }
    return { result, error: null };
  } catch (error) {
    return { result, error: abortReason(root, error) };
  }
}

/** One that is suspended, or has ended, is only copied. */
const hasDomain = ({ route }: MigrationRun): boolean => !route.suspended && route.ended !== true;

/** Decides where the VM is after an attempt. Retries without limit, because no other component may restore it meanwhile. */
export async function resolveColdMigration(run: MigrationRun, cause: TaskError | null): Promise<MigrationOutcome> {
  const { target, source, route } = run;
  if (!hasDomain(run)) return cause === null ? 'committed' : 'stayed';
  if (run.cold.restoring) {
    const atTargetNow = await retryOnHost(run, route.to.id, () => resolveRestore(run));
    if (atTargetNow === 'running') return 'committed';
    if (atTargetNow === 'lost') return 'lost';
    // Then an attempt to restore that is still under way finds no file.
    await retryOnHost(run, route.to.id, () => target.removeColdLeftover(leftoverAtTarget(run)));
  }
  if (!run.cold.suspended) return 'stayed';
  try {
    const disksAt = route.home.id === route.from.id ? null : route.home.address;
    await retryOnHost(run, route.from.id, () => source.restoreVm({ vm: atSource(run), diskHostAddress: disksAt }));
    return 'stayed';
  } catch (error) {
    if (domainEndOf(error) !== null) return 'lost';
    throw error;
  }
}

async function resolveRestore(run: MigrationRun): Promise<'untouched' | 'running' | 'lost'> {
  try {
    return await run.target.resolveRestore(atTarget(run));
  } catch (error) {
    // The workflow before this one has removed what was there: nothing of this generation can begin there any more.
    if (run.cold.interrupted && codeOf(error) === 'stale-generation') return 'untouched';
    throw error;
  }
}

/** Removes the VM's files where they are not used any more, or makes them an old version there. */
export async function cleanUpColdHosts(run: MigrationRun, committed: boolean): Promise<void> {
  const { route } = run;
  const hosts: [HostId, RemoveColdLeftover][] = committed
    ? [[route.from.id, leftoverAtSource(run)]]
    : [[route.to.id, leftoverAtTarget(run)]];
  if (committed && run.moveDisk && route.home.id !== route.from.id) hosts.push([route.home.id, leftoverAtHome(run)]);
  for (const [host, order] of hosts)
    await trackPhase(run, 'release', () => cleanUpOrReconcile(run, host, (at) => at.removeColdLeftover(order)));
}

/** For the target: null where its disks are there, or are copied with it. */
const diskHostAddress = ({ route, moveDisk }: MigrationRun): string | null =>
  moveDisk || route.home.id === route.to.id ? null : route.home.address;

async function prepareCold(run: MigrationRun): Promise<{ record: PortableRecord; chunks: number }> {
  const record = await prepareTarget(run);
  const { chunks } = await onHost(run.route.to.id, run.pace, 'throw').offerCachedChunks(atTarget(run));
  return { record, chunks };
}

/** Files of the disks that are copied; none where the disks remain at their home. */
const diskFiles = ({ route, moveDisk }: MigrationRun): ColdCopyFile[] =>
  moveDisk ? ['overlay', 'data', ...route.vm.extraDisksMiB.map((_, index): ColdCopyFile => `extra-${index}`)] : [];

/** Files that the source has: of a VM that has ended no memory. */
const sourceFiles = (run: MigrationRun): ColdCopyFile[] => [
  ...(run.route.ended === true ? [] : ['memory' as const]),
  ...(run.route.home.id === run.route.from.id ? diskFiles(run) : []),
];

/** @returns bytes sent over the network. */
async function copyCold(run: MigrationRun, portableRecord: PortableRecord, chunks: number): Promise<number> {
  const { route, vmId, pace, source, target } = run;
  const files = sourceFiles(run);
  const disks = route.home.id === route.from.id ? [] : diskFiles(run);
  const copy = new ColdCopyProgress(run, (files.length > 0 ? 1 : 0) + (disks.length > 0 ? 1 : 0));
  const order = { vmId, generation: route.sourceGeneration, cachedChunks: { address: route.to.address, chunks } };
  const targetGeneration = route.vm.generation;
  const packed = files.length === 0 ? null : await copy.pack(source, route.from.address, { ...order, files, targetGeneration });
  if (disks.length > 0) await copy.pack(onHost(route.home.id, pace, 'throw'), route.home.address, { ...order, files: disks });
  await copy.unpack(target, {
    vm: atTarget(run),
    diskHostAddress: diskHostAddress(run),
    portableRecord,
    suspendedSinceMs: route.ended === true ? null : (packed?.sinceMs ?? Date.now()),
    earlierConsole: earlierConsoleOf(run),
  });
  return copy.packs.reduce((sum, { bytes }) => sum + bytes, 0);
}

const leftoverAtTarget = ({ route, vmId }: MigrationRun): RemoveColdLeftover => ({
  vmId,
  generation: route.vm.generation,
  cacheFiles: [],
  isHome: route.home.id === route.to.id,
});

const leftoverAtHome = (run: MigrationRun): RemoveColdLeftover => ({
  vmId: run.vmId,
  generation: run.route.vm.generation,
  cacheFiles: diskFiles(run),
  isHome: false,
});

function leftoverAtSource(run: MigrationRun): RemoveColdLeftover {
  const { route, vmId, moveDisk } = run;
  const isHome = route.home.id === route.from.id;
  return {
    vmId,
    generation: route.sourceGeneration,
    cacheFiles: sourceFiles(run),
    isHome: isHome && !moveDisk,
    targetGeneration: route.vm.generation,
  };
}

/** Retries without limit, and marks the migration stuck after the first refusal. Throws what says that the domain has ended, which is an answer. */
async function retryOnHost<T>(run: MigrationRun, host: HostId, act: () => Promise<T>): Promise<T> {
  let reported = false;
  return run.retry.run(act, async (error) => {
    if (domainEndOf(error) !== null) throw error;
    const why = `${host} has to answer what became of ${run.vmId}: ${taskErrorOf(error).message}. It is retried without limit`;
    run.progress.setDetail('stuck', `**${why}**`);
    if (!reported) await run.ledger.markMigrationStuck(run.id, { code: 'ambiguous', message: why });
    reported = true;
  });
}
