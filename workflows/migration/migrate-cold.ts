import type { CancellationScope } from '@temporalio/workflow';
import type { ColdCopyFile, MigrateOutResult, PortableRecord } from '../../contracts/host.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notifyReconciliation } from '../durable/notify.ts';
import { ColdCopyProgress } from './cold-copy-progress.ts';
import {
  abortReason,
  type MigrationAttempt,
  type MigrationRun,
  noTransfer,
  prepareTarget,
  runPrepare,
  setPhaseBytes,
  trackPhase,
  withCleanupTimeout,
} from './migrate-vm.ts';
import type { MigrationOutcome } from './resolve-migration.ts';

/**
 * A VM that moves as files: its memory, and its disks where they are to follow. One that runs is suspended for it.
 *
 *   phase    does                                                    undone by
 *   prepare  the image at the target; what it keeps of old versions  leaveCold
 *   suspend  memory into a file, at the source                       restoreVm there
 *   copy     packed at the source, unpacked at the target            leaveCold
 *   restore  it runs at the target                                   nothing, once its guest has executed anything
 *   verify   the target says whether it has                          (changes only what is certain)
 *
 * It is restored at the source only after the target has said that nothing was executed there, and can't be any more.
 */
export async function migrateCold(move: MigrationRun, root: CancellationScope): Promise<MigrationAttempt> {
  const { source, target, route: place } = move;
  const { suspended } = place;
  const moved: MigrateOutResult = { ...noTransfer };
  const ready = await runPrepare(move, root, () => prepareCold(move));
  if ('error' in ready) return ready;
  const { carried, chunks } = ready;
  try {
    const stoodStillFrom = Date.now();
    if (!suspended) {
      move.cold.suspended = true;
      await trackPhase(move, 'suspend', () => source.suspendVm(atSource(move)));
    }
    moved.bytes = await trackPhase(move, 'copy', () => copyCold(move, carried, chunks));
    setPhaseBytes(move, 'copy', moved.bytes);
    if (!suspended) {
      move.cold.restoring = true;
      await trackPhase(move, 'restore', () => target.restoreVm({ vm: atTarget(move), diskHostAddress: diskHostAddress(move) }));
      moved.downtimeMs = Date.now() - stoodStillFrom;
    }
    return { result: moved, error: null };
  } catch (error) {
    return { result: moved, error: abortReason(root, error) };
  }
}

/** What each side has in the end, after whatever happened. For ever, if need be: nobody else may restore it meanwhile. */
export async function resolveColdMigration(move: MigrationRun, cause: TaskError | null): Promise<MigrationOutcome> {
  const { target, source, route: place } = move;
  if (place.suspended) return cause === null ? 'committed' : 'stayed';
  if (move.cold.restoring) {
    const there = await retryOnHost(move, place.to.id, () => target.resolveRestore(atTarget(move)));
    if (there === 'running') return 'committed';
    if (there === 'lost') return 'lost';
    // An attempt that is under way still finds nothing to restore from.
    await retryOnHost(move, place.to.id, () => target.removeColdLeftover(coldLeftover(move, 'to')));
  }
  if (!move.cold.suspended) return 'stayed';
  try {
    await retryOnHost(move, place.from.id, () =>
      source.restoreVm({ vm: atSource(move), diskHostAddress: place.home.id === place.from.id ? null : place.home.address }),
    );
    return 'stayed';
  } catch (error) {
    if (codeOf(error) === 'vm-lost') return 'lost';
    throw error;
  }
}

/** What is of the past at either side goes; a host that is silent, or refuses, is cleaned by its own reconciliation. */
export async function cleanUpColdHosts(move: MigrationRun, committed: boolean): Promise<void> {
  const { route: place, pace, progress } = move;
  const homeLeft = committed && move.moveDisk && place.home.id !== place.from.id;
  const leaves = committed
    ? [
        { host: place.from.id, order: coldLeftover(move, 'from') },
        ...(homeLeft ? [{ host: place.home.id, order: coldLeftover(move, 'home') }] : []),
      ]
    : [{ host: place.to.id, order: coldLeftover(move, 'to') }];
  for (const { host, order } of leaves) {
    try {
      await trackPhase(move, 'release', () =>
        withCleanupTimeout(pace, () => onHost(host, pace, 'throw').removeColdLeftover(order)),
      );
    } catch (error) {
      progress.setDetail('release', `${host} is left to its reconciliation: ${taskErrorOf(error).message}`);
      await notifyReconciliation(host);
    }
  }
}

const atSource = ({ route: place }: MigrationRun): VmSpec => ({
  ...place.vm,
  host: place.from.id,
  generation: place.sourceGeneration,
});
const atTarget = ({ route: place, moveDisk }: MigrationRun): VmSpec => ({
  ...place.vm,
  home: moveDisk ? place.to.id : place.home.id,
});
/** For the target: null when its disks are there, or come along. */
const diskHostAddress = ({ route: place, moveDisk }: MigrationRun): string | null =>
  moveDisk || place.home.id === place.to.id ? null : place.home.address;

async function prepareCold(move: MigrationRun): Promise<{ carried: PortableRecord; chunks: number }> {
  const carried = await prepareTarget(move);
  const { chunks } = await onHost(move.route.to.id, move.pace, 'throw').offerCachedChunks(atTarget(move));
  return { carried, chunks };
}

const disksOf = ({ extraDisksMiB }: VmSpec): ColdCopyFile[] => [
  'overlay',
  'data',
  ...extraDisksMiB.map((_, index): ColdCopyFile => `extra-${index}`),
];

/** @returns bytes that went over the network. */
async function copyCold(move: MigrationRun, portableRecord: PortableRecord, chunks: number): Promise<number> {
  const { route: place, vmId, pace, source, target } = move;
  const cachedChunks = { address: place.to.address, chunks };
  const disks = move.moveDisk ? disksOf(place.vm) : [];
  const disksAtSource = place.home.id === place.from.id;
  const disksElsewhere = !disksAtSource && disks.length > 0;
  const progress = new ColdCopyProgress(move, disksElsewhere ? 2 : 1);
  const order = { vmId, generation: place.sourceGeneration, cachedChunks };
  const first = await progress.pack(source, place.from.address, {
    ...order,
    files: disksAtSource ? ['memory', ...disks] : ['memory'],
  });
  if (disksElsewhere) await progress.pack(onHost(place.home.id, pace, 'throw'), place.home.address, { ...order, files: disks });
  const sinceMs = first.sinceMs ?? Date.now();
  await progress.unpack(target, {
    vm: atTarget(move),
    diskHostAddress: diskHostAddress(move),
    portableRecord,
    suspendedSinceMs: sinceMs,
  });
  return progress.packs.reduce((sum, { bytes }) => sum + bytes, 0);
}

function coldLeftover({ route: place, vmId, moveDisk }: MigrationRun, where: 'from' | 'to' | 'home') {
  if (where === 'to') return { vmId, generation: place.vm.generation, cacheFiles: [], isHome: place.home.id === place.to.id };
  const isHome = place.home.id === place.from.id;
  const disks = moveDisk ? disksOf(place.vm) : [];
  if (where === 'home') return { vmId, generation: place.vm.generation, cacheFiles: disks, isHome: false };
  const cacheFiles: ColdCopyFile[] = isHome ? ['memory', ...disks] : ['memory'];
  return { vmId, generation: place.sourceGeneration, cacheFiles, isHome: isHome && !moveDisk };
}

/** Tries for ever; an operator hears of it after the first refusal. A VM that is lost is no refusal. */
async function retryOnHost<T>(move: MigrationRun, host: string, act: () => Promise<T>): Promise<T> {
  let reported = false;
  return move.retry.run(act, async (error) => {
    if (codeOf(error) === 'vm-lost') throw error;
    const why = `${host} has to say what became of ${move.vmId}: ${taskErrorOf(error).message}. It is asked again for ever`;
    move.progress.setDetail('stuck', `**${why}**`);
    if (!reported) await move.ledger.markMigrationStuck(move.id, { code: 'ambiguous', message: why });
    reported = true;
  });
}
