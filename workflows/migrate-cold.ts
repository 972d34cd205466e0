import type { CancellationScope } from '@temporalio/workflow';
import type { Carried, CarriedFile, MigratedOut } from '../activities/host/contract.ts';
import type { TaskError } from '../model/task.ts';
import type { VmSpec } from '../model/vm.ts';
import { CopyCourse } from './copy-course.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import {
  type Course,
  countBytes,
  during,
  type Move,
  nothingMoved,
  prepared,
  prepareTarget,
  soon,
  whyEnded,
} from './migrate-vm.ts';
import { onHost } from './on-host.ts';
import type { Settled } from './settle-migration.ts';
import { tellReconciliation } from './tell.ts';

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
export async function moveCold(move: Move, root: CancellationScope): Promise<Course> {
  const { source, target, place } = move;
  const { asleep } = place;
  const moved: MigratedOut = { ...nothingMoved };
  const ready = await prepared(move, root, () => prepare(move));
  if ('cause' in ready) return ready;
  const { carried, chunks } = ready;
  try {
    const stoodStillFrom = Date.now();
    if (!asleep) {
      move.cold.suspended = true;
      await during(move, 'suspend', () => source.suspendVm(atSource(move)));
    }
    moved.bytes = await during(move, 'copy', () => carry(move, carried, chunks));
    countBytes(move, 'copy', moved.bytes);
    if (!asleep) {
      move.cold.restoring = true;
      await during(move, 'restore', () => target.restoreVm({ vm: atTarget(move), disksAt: disksAt(move) }));
      moved.downtimeMs = Date.now() - stoodStillFrom;
    }
    return { moved, cause: null };
  } catch (error) {
    return { moved, cause: whyEnded(root, error) };
  }
}

/** What each side has in the end, after whatever happened. For ever, if need be: nobody else may restore it meanwhile. */
export async function settleCold(move: Move, cause: TaskError | null): Promise<Settled> {
  const { target, source, place } = move;
  if (place.asleep) return cause === null ? 'committed' : 'stayed';
  if (move.cold.restoring) {
    const there = await insistOn(move, place.to.id, () => target.settleRestored(atTarget(move)));
    if (there === 'running') return 'committed';
    if (there === 'lost') return 'lost';
    // An attempt that is under way still finds nothing to restore from.
    await insistOn(move, place.to.id, () => target.leaveCold(leaving(move, 'to')));
  }
  if (!move.cold.suspended) return 'stayed';
  try {
    await insistOn(move, place.from.id, () =>
      source.restoreVm({ vm: atSource(move), disksAt: place.home.id === place.from.id ? null : place.home.address }),
    );
    return 'stayed';
  } catch (error) {
    if (codeOf(error) === 'vm-lost') return 'lost';
    throw error;
  }
}

/** What is of the past at either side goes; a host that is silent, or refuses, is cleaned by its own reconciliation. */
export async function leaveColdly(move: Move, committed: boolean): Promise<void> {
  const { place, pace, progress } = move;
  const homeLeft = committed && move.moveDisk && place.home.id !== place.from.id;
  const leaves = committed
    ? [
        { host: place.from.id, order: leaving(move, 'from') },
        ...(homeLeft ? [{ host: place.home.id, order: leaving(move, 'home') }] : []),
      ]
    : [{ host: place.to.id, order: leaving(move, 'to') }];
  for (const { host, order } of leaves) {
    try {
      await during(move, 'release', () => soon(pace, () => onHost(host, pace, 'throw').leaveCold(order)));
    } catch (error) {
      progress.say('release', `${host} is left to its reconciliation: ${taskErrorOf(error).message}`);
      await tellReconciliation(host);
    }
  }
}

const atSource = ({ place }: Move): VmSpec => ({ ...place.vm, host: place.from.id, generation: place.sourceGeneration });
const atTarget = ({ place, moveDisk }: Move): VmSpec => ({ ...place.vm, home: moveDisk ? place.to.id : place.home.id });
/** For the target: null when its disks are there, or come along. */
const disksAt = ({ place, moveDisk }: Move): string | null =>
  moveDisk || place.home.id === place.to.id ? null : place.home.address;

async function prepare(move: Move): Promise<{ carried: Carried; chunks: number }> {
  const carried = await prepareTarget(move);
  const { chunks } = await onHost(move.place.to.id, move.pace, 'throw').offerKept(atTarget(move));
  return { carried, chunks };
}

const disksOf = ({ extraDisksMiB }: VmSpec): CarriedFile[] => [
  'overlay',
  'data',
  ...extraDisksMiB.map((_, index): CarriedFile => `extra-${index}`),
];

/** @returns bytes that went over the network. */
async function carry(move: Move, carried: Carried, chunks: number): Promise<number> {
  const { place, vmId, pace, source, target } = move;
  const offer = { address: place.to.address, chunks };
  const disks = move.moveDisk ? disksOf(place.vm) : [];
  const together = place.home.id === place.from.id;
  const apart = !together && disks.length > 0;
  const course = new CopyCourse(move, apart ? 2 : 1);
  const order = { vmId, generation: place.sourceGeneration, offer };
  const first = await course.pack(source, place.from.address, { ...order, files: together ? ['memory', ...disks] : ['memory'] });
  if (apart) await course.pack(onHost(place.home.id, pace, 'throw'), place.home.address, { ...order, files: disks });
  const sinceMs = first.sinceMs ?? Date.now();
  await course.unpack(target, { vm: atTarget(move), disksAt: disksAt(move), carried, sinceMs });
  return course.packs.reduce((sum, { bytes }) => sum + bytes, 0);
}

function leaving({ place, vmId, moveDisk }: Move, where: 'from' | 'to' | 'home') {
  if (where === 'to') return { vmId, generation: place.vm.generation, keep: [], home: place.home.id === place.to.id };
  const isHome = place.home.id === place.from.id;
  const disks = moveDisk ? disksOf(place.vm) : [];
  if (where === 'home') return { vmId, generation: place.vm.generation, keep: disks, home: false };
  const keep: CarriedFile[] = isHome ? ['memory', ...disks] : ['memory'];
  return { vmId, generation: place.sourceGeneration, keep, home: isHome && !moveDisk };
}

/** Tries for ever; an operator hears of it after the first refusal. A VM that is lost is no refusal. */
async function insistOn<T>(move: Move, host: string, act: () => Promise<T>): Promise<T> {
  let told = false;
  return move.insistence.on(act, async (error) => {
    if (codeOf(error) === 'vm-lost') throw error;
    const why = `${host} has to say what became of ${move.vmId}: ${taskErrorOf(error).message}. It is asked again for ever`;
    move.progress.say('stuck', `**${why}**`);
    if (!told) await move.ledger.stickMigration(move.id, { code: 'ambiguous', message: why });
    told = true;
  });
}
