import { CancellationScope, condition, defineSignal, isCancellation, log, setHandler, sleep } from '@temporalio/workflow';
import type { Carried, HostActivities, MigratedOut } from '../activities/host/contract.ts';
import type { LedgerActivities, MigrationPlace } from '../activities/ledger/contract.ts';
import type { TaskId, VmId } from '../model/ids.ts';
import {
  type MigratedGuest,
  type MigrationId,
  type MigrationJob,
  type MigrationPhase,
  type MigrationRecord,
  type MigrationState,
  migrationEtaS,
  type PhaseEntry,
  policyFor,
} from '../model/migration.ts';
import type { TaskError } from '../model/task.ts';
import { signalName, workflowId } from '../model/temporal.ts';
import { codeOf, failure, neverStarted, taskErrorOf } from './failure.ts';
import { followWithDisks } from './follow-disks.ts';
import { Insistence } from './insistence.ts';
import { leaveColdly, moveCold, settleCold } from './migrate-cold.ts';
import { onHost, onLedger } from './on-host.ts';
import { now, Progress } from './progress.ts';
import { together, within } from './scopes.ts';
import { settleMigration } from './settle-migration.ts';
import { tell, tellPlaced, tellReconciliation } from './tell.ts';
import { waits } from './timeouts.ts';

const movedSignal = defineSignal(signalName.moved);

/** A migration at work. */
export interface Move {
  readonly id: MigrationId;
  readonly vmId: VmId;
  readonly place: MigrationPlace;
  readonly ledger: LedgerActivities;
  readonly source: HostActivities;
  readonly target: HostActivities;
  readonly progress: Progress;
  readonly insistence: Insistence;
  readonly pace: number;
  /** Its disks are to follow, and aren't there already. */
  readonly moveDisk: boolean;
  readonly convergeWithinS: number;
  readonly phases: PhaseEntry[];
  /** Of a cold one: what was begun, and has an undo from then on. */
  readonly cold: { suspended: boolean; restoring: boolean };
}

/**
 * One migration of one VM, from its turn to one of two ends: it runs at the target, or at the source as before.
 *
 *   phase     does                                             undone by
 *   reserve   room at the target, next to that at the source   the end, either way, in one transaction with it
 *   prepare   record, network and domain at the target         leaveHost
 *   preCopy   memory streams while the guest runs              abortOut, then whatever both hosts say
 *   switch    the guest is paused, handed over, resumed        nothing: an abort is no longer heard
 *   verify    both hypervisors are asked until they agree      (changes only what is certain: settle-migration.ts)
 *   commit    host, generation, usage and event                nothing: it is so
 *   release   what is left at the host where it isn't          that host's reconciliation, should it be silent
 *             meanwhile the guest is asked whether it answers
 *   moveDisk  where asked: its disks follow (follow-disks.ts)  they stay where they are, and it runs on
 *
 * A pre-copy that doesn't converge is rolled back, or goes on as a cold one, where that was allowed. The phases of a cold one are in migrate-cold.ts; where the disks move alone, the last one is all. Cancelling this workflow is the abort. @param pace scales every wait.
 */
export async function migrateVm(id: MigrationId, pace = 1): Promise<MigrationState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const insistence = new Insistence(pace);
  const record = await insistence.on(
    () => ledger.loadMigration(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  if (record.state === 'succeeded' || record.state === 'rolledBack') return record.state;
  if (record.abortRequested) root.cancel();
  const progress = new Progress();
  progress.mark({ owner: record.owner, vms: [record.vmId], state: record.state });
  const begunAt = now();
  let place: MigrationPlace;
  try {
    place = await turn(record, ledger, progress, pace);
  } catch (error) {
    // Nothing was taken and nobody was asked to do anything: the ledger alone has to hear of it.
    const phases: PhaseEntry[] = [{ name: 'reserve', startedAt: begunAt, seconds: since(begunAt), bytes: 0 }];
    const failure = { error: whyEnded(root, error), lost: false, downtimeMs: null, bytes: 0, phases };
    await CancellationScope.nonCancellable(async () =>
      tellPlaced(await insistence.on(() => ledger.rollBackMigration(id, failure), refusedBy(progress))),
    );
    progress.mark({ state: 'rolledBack' });
    return 'rolledBack';
  }
  const wait = (host: string) => ({
    wait: (step: string) => progress.say(`silent ${host}`, `**${host} does not answer** since ${now()}; ${step} waits for it`),
  });
  const move: Move = {
    id,
    vmId: record.vmId,
    place,
    ledger,
    source: onHost(place.from.id, pace, wait(place.from.id)),
    target: onHost(place.to.id, pace, wait(place.to.id)),
    progress,
    insistence,
    pace,
    moveDisk: record.moveDisk && place.home.id !== place.to.id,
    convergeWithinS: record.convergeWithinS,
    phases: [{ name: 'reserve', startedAt: begunAt, seconds: since(begunAt), bytes: 0 }],
    cold: { suspended: false, restoring: false },
  };
  progress.mark({ hosts: [place.from.id, place.to.id] });
  return run(move, record, root);
}

/** Waits until there is room for one more migration at both hosts. A signal says when to ask; the poll is for a lost one. */
async function turn(
  record: MigrationRecord,
  ledger: LedgerActivities,
  progress: Progress,
  pace: number,
): Promise<MigrationPlace> {
  let asked = false;
  setHandler(movedSignal, () => {
    asked = true;
  });
  const { first, longest } = waits(pace).turnPoll;
  for (let pause = first; ; pause = Math.min(longest, pause * 2)) {
    asked = false;
    const answer = await ledger.reserveMigration(record.id);
    if (answer.turn) return answer.place;
    progress.say('step', `**waits** for its turn: ${answer.why}`);
    await condition(() => asked, pause);
  }
}

export const nothingMoved: MigratedOut = { downtimeMs: null, bytes: 0, seen: null, answered: false };

export interface Course {
  moved: MigratedOut;
  cause: TaskError | null;
  /** Nothing of it was begun at either host. */
  untouched?: boolean;
}

/** The first steps go to a host that may have died since it was chosen: nobody waits for one to come back to move there. */
export async function prepared<T>(move: Move, root: CancellationScope, act: () => Promise<T>): Promise<T | Course> {
  try {
    return await during(move, 'prepare', act);
  } catch (error) {
    const isFull = codeOf(error) === 'disk-full';
    // It is asked for room before anything else, and to undo nothing it would have to write. Should an attempt before this
    // one have found room, its host sees to what that left.
    if (isFull) await tellReconciliation(move.place.to.id);
    return { moved: nothingMoved, cause: whyEnded(root, error), untouched: isFull || neverStarted(error) };
  }
}

async function moveLive(move: Move, root: CancellationScope): Promise<Course> {
  const config = await prepared(move, root, () => prepare(move));
  if ('cause' in config) return config;
  try {
    const moved = await during(move, 'preCopy', () => preCopy(move, config));
    splitSwitch(move, moved);
    return { moved, cause: null };
  } catch (error) {
    return { moved: nothingMoved, cause: whyEnded(root, error) };
  }
}

/**
 * A pre-copy that came to no end goes on as files once both hosts say that the VM is where it was, and nowhere else; what
 * was prepared at the target serves for that as well. Anything else is settled as the end of a live one.
 */
async function isToGoAsFiles(move: Move): Promise<boolean> {
  return CancellationScope.nonCancellable(async () => {
    if ((await during(move, 'verify', () => settleMigration(move, () => abort(move)))) !== 'stayed') return false;
    await insist(move, (ledger) => ledger.turnCold(move.id));
    return true;
  });
}

async function run(
  move: Move,
  { mode, orCold, task }: Pick<MigrationRecord, 'mode' | 'orCold'> & { task: TaskId | null },
  root: CancellationScope,
): Promise<MigrationState> {
  // Whoever looks after the VM: its task, or the VM itself where it stands alone.
  const keeper = task === null ? workflowId.vm(move.vmId) : workflowId.task(task);
  if (mode === 'disks') return CancellationScope.nonCancellable(() => moveDisks(move, keeper, root));
  let isCold = mode === 'cold';
  let course = isCold ? await moveCold(move, root) : await moveLive(move, root);
  if (orCold && course.cause?.code === 'not-converging' && (await isToGoAsFiles(move))) {
    isCold = true;
    course = await moveCold(move, root);
  }
  return CancellationScope.nonCancellable(async () => {
    const { moved, cause, untouched = false } = course;
    const settle = () =>
      isCold ? settleCold(move, cause) : settleMigration(move, cause === null ? null : () => abort(move), moved.seen);
    const outcome = untouched ? 'stayed' : await during(move, 'verify', settle);
    const committed = outcome === 'committed';
    const result = () => ({ downtimeMs: moved.downtimeMs, bytes: moved.bytes, phases: phasesNow(move) });
    if (committed) {
      const wake = await during(move, 'commit', () => insist(move, (ledger) => ledger.commitMigration(move.id, result())));
      await tellPlaced(wake);
      await tell(keeper, signalName.moved);
      await (isCold ? leaveColdly(move, true) : Promise.all([leave(move, 'from'), askGuest(move, moved.answered)]));
    } else {
      if (!untouched) await (isCold ? leaveColdly(move, false) : leave(move, 'to'));
      const error = cause ?? { code: 'hypervisor', message: 'The hypervisor gave the migration up, and did not say why' };
      const failure = { ...result(), error, lost: outcome === 'lost' };
      await tellPlaced(await insist(move, (ledger) => ledger.rollBackMigration(move.id, failure)));
      await tell(keeper, signalName.moved);
    }
    if (committed && move.moveDisk && !isCold) {
      // The command goes on at the target, while the disks follow in the background.
      await followWithDisks(move, root);
      await tell(keeper, signalName.moved);
    }
    const state = committed ? 'succeeded' : 'rolledBack';
    move.progress.mark({ state });
    return state;
  });
}

/** A VM that moved earlier, and whose disks follow now: the last phase alone. It runs where it is, whatever becomes of them. */
async function moveDisks(move: Move, keeper: string, root: CancellationScope): Promise<MigrationState> {
  const state = (await followWithDisks(move, root)) === 'here' ? 'succeeded' : 'rolledBack';
  await tell(keeper, signalName.moved);
  move.progress.mark({ state });
  return state;
}

/** The image is at the target, and the source has said what its record holds. */
export async function prepareTarget({ source, ledger, place, vmId, pace }: Move): Promise<Carried> {
  const fetched = async (): Promise<null> => {
    // A host that has no copy of the image fetches one; only what the VM wrote is opened over the network.
    const { from } = await onHost(place.to.id, pace, 'throw').ensureImage(place.vm.image);
    if (from !== 'cache') await ledger.imageCached(place.to.id, place.vm.image.id);
    return null;
  };
  const [carried] = await together([
    () => source.readCarried(vmId, place.sourceGeneration, place.vm.onReboot === 'destroy'),
    fetched,
  ]);
  if (carried == null) throw new Error('BUG: nothing was carried');
  return carried;
}

async function prepare(move: Move) {
  const { place, pace } = move;
  const target = onHost(place.to.id, pace, 'throw');
  const carried = await prepareTarget(move);
  const disksAt = place.home.id === place.to.id ? null : place.home.address;
  return target.prepareIncoming({ vm: place.vm, disksAt, carried });
}

/** The memory, with a look at it now and then for whoever asks. */
function preCopy(move: Move, config: Parameters<HostActivities['migrateOut']>[0]['config']): Promise<MigratedOut> {
  const { source, place, vmId, progress } = move;
  const look = async (): Promise<MigrationJob | null> => {
    const { job } = await source.observeMoving(vmId);
    if (job?.active !== true) return null;
    progress.say('dirty', `the guest writes ${mib(job.dirtyBytesPerS)} MiB/s`);
    return job;
  };
  const out = {
    vmId,
    generation: place.sourceGeneration,
    targetGeneration: place.vm.generation,
    config,
    to: place.to.address,
    policy: policyFor(config.accelerator, move.convergeWithinS),
  };
  return watched(move, look, () => source.migrateOut(out));
}

const mib = (bytes: number) => Math.round(bytes / 2 ** 20);

/** Acts, and says now and then how far that is and how long it will take. */
export async function watched<T>(move: Move, look: () => Promise<MigrationJob | null>, act: () => Promise<T>): Promise<T> {
  const looking = new CancellationScope();
  const looks = looking.run(() => watch(move, look)).catch((error) => onlyCancellation(move, error));
  try {
    return await act();
  } finally {
    looking.cancel();
    await looks;
  }
}

async function watch({ ledger, progress, id, phases, pace }: Move, look: () => Promise<MigrationJob | null>): Promise<never> {
  for (;;) {
    await sleep(waits(pace).progressEvery);
    const job = await look();
    if (job === null) continue;
    const eta = migrationEtaS(job);
    progress.say(
      'job',
      `${mib(job.processedBytes)} MiB carried over, ${mib(job.remainingBytes)} MiB left; ${eta === null ? 'no end in sight' : `about ${eta} s left`}`,
    );
    await ledger.noteMigration(id, phases, job);
  }
}

/** A look that failed is no failure of the migration. */
function onlyCancellation({ progress }: Move, error: unknown): void {
  if (!isCancellation(error)) progress.say('job', `how it goes can't be seen: ${taskErrorOf(error).message}`);
}

/** What was begun at the source ends there. Whether it came in time is for both hosts to say. */
async function abort({ place, vmId, progress, pace }: Move): Promise<boolean> {
  try {
    await onHost(place.from.id, pace, 'throw').abortOut(vmId, place.sourceGeneration, place.vm.generation);
    return true;
  } catch (error) {
    progress.say('abort', `the migration could not be ended at ${place.from.id}: ${taskErrorOf(error).message}`);
    return false;
  }
}

/** A host that is silent now, or refuses for too long, is cleaned by its own reconciliation, which knows the generations. */
async function leave(move: Move, which: 'from' | 'to'): Promise<void> {
  const { place, pace, vmId, progress } = move;
  const host = place[which];
  const generation = which === 'from' ? place.sourceGeneration : place.vm.generation;
  try {
    await during(move, 'release', () =>
      soon(pace, () => onHost(host.id, pace, 'throw').leaveHost(vmId, generation, place.home.id === host.id)),
    );
  } catch (error) {
    progress.say('release', `${host.id} is left to its reconciliation: ${taskErrorOf(error).message}`);
    await tellReconciliation(host.id);
  }
}

/**
 * More than the hypervisor's word. It comes behind the commit, because nothing could be undone any more: a guest that is
 * silent at the target is one for its owner and for whoever looks here.
 */
async function askGuest(move: Move, answered: boolean): Promise<void> {
  const { place, vmId, progress } = move;
  const guest = await heard(move, answered);
  if (guest === 'silent') {
    progress.say('guest', `**the guest of ${vmId} is silent** at ${place.to.id} since it moved: its agent answered before`);
    log.warn('A guest is silent since it moved', { vmId, host: place.to.id });
  }
  await insist(move, (ledger) => ledger.noteGuest(move.id, guest));
}

async function heard({ place, vmId, pace, progress }: Move, answered: boolean): Promise<MigratedGuest> {
  try {
    if (await onHost(place.to.id, pace, 'throw').hearGuest(vmId, place.vm.generation)) return 'answers';
    return answered ? 'silent' : 'unknown';
  } catch (error) {
    progress.say('guest', `whether the guest of ${vmId} answers at ${place.to.id} can't be known: ${taskErrorOf(error).message}`);
    return 'unknown';
  }
}

/** What a removal, which is tried for ever, may take here: the migration is over without it. */
export function soon<T>(pace: number, act: () => Promise<T>): Promise<T> {
  const ms = waits(pace).leavePatience;
  return within(ms, () => failure('host-busy', `it could not be cleaned up within ${ms / 1000} s`), act);
}

/** The end has to be written down, whatever the ledger thinks of it. */
export function insist<T>({ insistence, ledger, progress }: Move, act: (ledger: LedgerActivities) => Promise<T>): Promise<T> {
  return insistence.on(() => act(ledger), refusedBy(progress));
}

const refusedBy = (progress: Progress) => (error: unknown) =>
  progress.say('refused', `**the ledger refuses the end of the migration**: ${taskErrorOf(error).message}`);

export async function during<T>(move: Move, name: MigrationPhase, act: () => Promise<T>): Promise<T> {
  const entry: PhaseEntry = { name, startedAt: now(), seconds: null, bytes: 0 };
  move.phases.push(entry);
  move.progress.say(
    'step',
    `**${name}** of ${move.vmId} from ${move.place.from.id} to ${move.place.to.id} since ${entry.startedAt}`,
  );
  try {
    return await act();
  } finally {
    entry.seconds = since(entry.startedAt);
  }
}

/** What went over the network in a phase is known at its end. */
export function countBytes({ phases }: Move, name: MigrationPhase, bytes: number): void {
  const entry = phases.find((one) => one.name === name);
  if (entry !== undefined) entry.bytes = bytes;
}

/** As they are to be read later: one that lasts ends with what is being written. */
export function phasesNow({ phases }: Move): PhaseEntry[] {
  return phases.map((entry) => ({ ...entry, seconds: entry.seconds ?? since(entry.startedAt) }));
}

/** The source's host measured the switch; it was the end of what the saga saw as one step. */
function splitSwitch({ phases }: Move, { downtimeMs, bytes }: MigratedOut): void {
  const entry = phases.find(({ name }) => name === 'preCopy');
  if (entry === undefined || entry.seconds === null) return;
  entry.bytes = bytes;
  if (downtimeMs === null) return;
  const preCopyMs = Math.max(0, entry.seconds * 1000 - downtimeMs);
  entry.seconds = preCopyMs / 1000;
  const startedAt = new Date(Date.parse(entry.startedAt) + preCopyMs).toISOString();
  phases.push({ name: 'switch', startedAt, seconds: downtimeMs / 1000, bytes: 0 });
}

const since = (at: string): number => Math.max(0, Date.now() - Date.parse(at)) / 1000;

export function whyEnded(root: CancellationScope, error: unknown): TaskError {
  if (root.consideredCancelled) return { code: 'migration-aborted', message: 'The migration was aborted before the switch' };
  return taskErrorOf(error);
}
