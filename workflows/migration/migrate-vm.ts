import { CancellationScope, condition, defineSignal, isCancellation, log, setHandler, sleep } from '@temporalio/workflow';
import type { HostActivities, MigrateOutResult, PortableRecord } from '../../contracts/host.ts';
import type { LedgerActivities, MigrationRoute } from '../../contracts/ledger.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import {
  convergencePolicyFor,
  type MigratedGuest,
  type MigrationId,
  type MigrationJob,
  type MigrationPhase,
  type MigrationRecord,
  type MigrationState,
  migrationEtaS,
  type PhaseEntry,
} from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { allOrCancel, withTimeout } from '../durable/cancellation-scopes.ts';
import { codeOf, failure, neverStarted, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyReconciliation, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { cleanUpColdHosts, migrateCold, resolveColdMigration } from './migrate-cold.ts';
import { runDiskMigration } from './migrate-disks.ts';
import { resolveMigration } from './resolve-migration.ts';

const locationChangedSignal = defineSignal(signalName.locationChanged);

/** A migration at work. */
export interface MigrationRun {
  readonly id: MigrationId;
  readonly vmId: VmId;
  readonly route: MigrationRoute;
  readonly ledger: LedgerActivities;
  readonly source: HostActivities;
  readonly target: HostActivities;
  readonly progress: Progress;
  readonly retry: RetryForever;
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
  const insistence = new RetryForever(pace);
  const record = await insistence.run(
    () => ledger.loadMigration(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  if (record.state === 'succeeded' || record.state === 'rolledBack') return record.state;
  if (record.abortRequested) root.cancel();
  const progress = new Progress();
  progress.setAttributes({ owner: record.owner, vms: [record.vmId], state: record.state });
  const startedAt = isoNow();
  let place: MigrationRoute;
  try {
    place = await waitForAdmission(record, ledger, progress, pace);
  } catch (error) {
    // Nothing was taken and nobody was asked to do anything: the ledger alone has to hear of it.
    const phases: PhaseEntry[] = [{ name: 'reserve', startedAt: startedAt, seconds: secondsSince(startedAt), bytes: 0 }];
    const failure = { error: abortReason(root, error), lost: false, downtimeMs: null, bytes: 0, phases };
    await CancellationScope.nonCancellable(async () =>
      notifyWaiters(await insistence.run(() => ledger.rollBackMigration(id, failure), reportRefusal(progress))),
    );
    progress.setAttributes({ state: 'rolledBack' });
    return 'rolledBack';
  }
  const wait = (host: string) => ({
    wait: (step: string) =>
      progress.setDetail(`silent ${host}`, `**${host} does not answer** since ${isoNow()}; ${step} waits for it`),
  });
  const run: MigrationRun = {
    id,
    vmId: record.vmId,
    route: place,
    ledger,
    source: onHost(place.from.id, pace, wait(place.from.id)),
    target: onHost(place.to.id, pace, wait(place.to.id)),
    progress,
    retry: insistence,
    pace,
    moveDisk: record.moveDisk && place.home.id !== place.to.id,
    convergeWithinS: record.convergeWithinS,
    phases: [{ name: 'reserve', startedAt: startedAt, seconds: secondsSince(startedAt), bytes: 0 }],
    cold: { suspended: false, restoring: false },
  };
  progress.setAttributes({ hosts: [place.from.id, place.to.id] });
  return runMigration(run, record, root);
}

/** Waits until there is room for one more migration at both hosts. A signal says when to ask; the poll is for a lost one. */
async function waitForAdmission(
  record: MigrationRecord,
  ledger: LedgerActivities,
  progress: Progress,
  pace: number,
): Promise<MigrationRoute> {
  let woken = false;
  setHandler(locationChangedSignal, () => {
    woken = true;
  });
  const { initialMs: first, maxMs: longest } = timing(pace).admissionPoll;
  for (let backoffMs = first; ; backoffMs = Math.min(longest, backoffMs * 2)) {
    woken = false;
    const answer = await ledger.reserveMigration(record.id);
    if (answer.admitted) return answer.route;
    progress.setDetail('step', `**waits** for its turn: ${answer.reason}`);
    await condition(() => woken, backoffMs);
  }
}

export const noTransfer: MigrateOutResult = { downtimeMs: null, bytes: 0, observed: null, agentAnswered: false };

export interface MigrationAttempt {
  result: MigrateOutResult;
  error: TaskError | null;
  /** Nothing of it was begun at either host. */
  nothingBegun?: boolean;
}

/** The first steps go to a host that may have died since it was chosen: nobody waits for one to come back to move there. */
export async function runPrepare<T>(
  move: MigrationRun,
  root: CancellationScope,
  act: () => Promise<T>,
): Promise<T | MigrationAttempt> {
  try {
    return await trackPhase(move, 'prepare', act);
  } catch (error) {
    const isFull = codeOf(error) === 'disk-full';
    // It is asked for room before anything else, and to undo nothing it would have to write. Should an attempt before this
    // one have found room, its host sees to what that left.
    if (isFull) await notifyReconciliation(move.route.to.id);
    return { result: noTransfer, error: abortReason(root, error), nothingBegun: isFull || neverStarted(error) };
  }
}

async function migrateLive(move: MigrationRun, root: CancellationScope): Promise<MigrationAttempt> {
  const config = await runPrepare(move, root, () => prepareLive(move));
  if ('error' in config) return config;
  try {
    const moved = await trackPhase(move, 'preCopy', () => preCopy(move, config));
    splitSwitch(move, moved);
    return { result: moved, error: null };
  } catch (error) {
    return { result: noTransfer, error: abortReason(root, error) };
  }
}

/**
 * A pre-copy that came to no end goes on as files once both hosts say that the VM is where it was, and nowhere else; what
 * was prepared at the target serves for that as well. Anything else is settled as the end of a live one.
 */
async function fallBackToCold(move: MigrationRun): Promise<boolean> {
  return CancellationScope.nonCancellable(async () => {
    if ((await trackPhase(move, 'verify', () => resolveMigration(move, () => abortAtSource(move)))) !== 'stayed') return false;
    await retryForever(move, (ledger) => ledger.fallBackToCold(move.id));
    return true;
  });
}

async function runMigration(
  move: MigrationRun,
  { mode, coldFallback, task }: Pick<MigrationRecord, 'mode' | 'coldFallback'> & { task: TaskId | null },
  root: CancellationScope,
): Promise<MigrationState> {
  // Whoever looks after the VM: its task, or the VM itself where it stands alone.
  const ownerWorkflowId = task === null ? workflowId.vm(move.vmId) : workflowId.task(task);
  if (mode === 'disks') return CancellationScope.nonCancellable(() => runDiskMode(move, ownerWorkflowId, root));
  let isCold = mode === 'cold';
  let attempt = isCold ? await migrateCold(move, root) : await migrateLive(move, root);
  if (coldFallback && attempt.error?.code === 'not-converging' && (await fallBackToCold(move))) {
    isCold = true;
    attempt = await migrateCold(move, root);
  }
  return CancellationScope.nonCancellable(async () => {
    const { result: moved, error: cause, nothingBegun: untouched = false } = attempt;
    const settle = () =>
      isCold
        ? resolveColdMigration(move, cause)
        : resolveMigration(move, cause === null ? null : () => abortAtSource(move), moved.observed);
    const outcome = untouched ? 'stayed' : await trackPhase(move, 'verify', settle);
    const committed = outcome === 'committed';
    const result = () => ({ downtimeMs: moved.downtimeMs, bytes: moved.bytes, phases: closedPhases(move) });
    if (committed) {
      const wake = await trackPhase(move, 'commit', () =>
        retryForever(move, (ledger) => ledger.commitMigration(move.id, result())),
      );
      await notifyWaiters(wake);
      await notify(ownerWorkflowId, signalName.locationChanged);
      await (isCold
        ? cleanUpColdHosts(move, true)
        : Promise.all([cleanUpHost(move, 'from'), checkGuest(move, moved.agentAnswered)]));
    } else {
      if (!untouched) await (isCold ? cleanUpColdHosts(move, false) : cleanUpHost(move, 'to'));
      const error = cause ?? { code: 'hypervisor', message: 'The hypervisor gave the migration up, and did not say why' };
      const failure = { ...result(), error, lost: outcome === 'lost' };
      await notifyWaiters(await retryForever(move, (ledger) => ledger.rollBackMigration(move.id, failure)));
      await notify(ownerWorkflowId, signalName.locationChanged);
    }
    if (committed && move.moveDisk && !isCold) {
      // The command goes on at the target, while the disks follow in the background.
      await runDiskMigration(move, root);
      await notify(ownerWorkflowId, signalName.locationChanged);
    }
    const state = committed ? 'succeeded' : 'rolledBack';
    move.progress.setAttributes({ state });
    return state;
  });
}

/** A VM that moved earlier, and whose disks follow now: the last phase alone. It runs where it is, whatever becomes of them. */
async function runDiskMode(move: MigrationRun, ownerWorkflowId: string, root: CancellationScope): Promise<MigrationState> {
  const state = (await runDiskMigration(move, root)) === 'here' ? 'succeeded' : 'rolledBack';
  await notify(ownerWorkflowId, signalName.locationChanged);
  move.progress.setAttributes({ state });
  return state;
}

/** The image is at the target, and the source has said what its record holds. */
export async function prepareTarget({ source, ledger, route: place, vmId, pace }: MigrationRun): Promise<PortableRecord> {
  const fetched = async (): Promise<null> => {
    // A host that has no copy of the image fetches one; only what the VM wrote is opened over the network.
    const { from } = await onHost(place.to.id, pace, 'throw').ensureImage(place.vm.image);
    if (from !== 'cache') await ledger.recordImageCached(place.to.id, place.vm.image.id);
    return null;
  };
  const [carried] = await allOrCancel([
    () => source.readPortableRecord(vmId, place.sourceGeneration, place.vm.onReboot === 'destroy'),
    fetched,
  ]);
  if (carried == null) throw new Error('BUG: nothing was carried');
  return carried;
}

async function prepareLive(move: MigrationRun) {
  const { route: place, pace } = move;
  const target = onHost(place.to.id, pace, 'throw');
  const carried = await prepareTarget(move);
  const diskHostAddress = place.home.id === place.to.id ? null : place.home.address;
  return target.prepareIncoming({ vm: place.vm, diskHostAddress, portableRecord: carried });
}

/** The memory, with a look at it now and then for whoever asks. */
function preCopy(move: MigrationRun, config: Parameters<HostActivities['migrateOut']>[0]['config']): Promise<MigrateOutResult> {
  const { source, route: place, vmId, progress } = move;
  const observe = async (): Promise<MigrationJob | null> => {
    const { job } = await source.observeMigration(vmId);
    if (job?.active !== true) return null;
    progress.setDetail('dirty', `the guest writes ${mib(job.dirtyBytesPerS)} MiB/s`);
    return job;
  };
  const out = {
    vmId,
    generation: place.sourceGeneration,
    targetGeneration: place.vm.generation,
    config,
    targetAddress: place.to.address,
    policy: convergencePolicyFor(config.accelerator, move.convergeWithinS),
  };
  return withProgressReports(move, observe, () => source.migrateOut(out));
}

const mib = (bytes: number) => Math.round(bytes / 2 ** 20);

/** Acts, and says now and then how far that is and how long it will take. */
export async function withProgressReports<T>(
  move: MigrationRun,
  observe: () => Promise<MigrationJob | null>,
  act: () => Promise<T>,
): Promise<T> {
  const reporting = new CancellationScope();
  const reports = reporting.run(() => reportProgress(move, observe)).catch((error) => reportUnlessCancelled(move, error));
  try {
    return await act();
  } finally {
    reporting.cancel();
    await reports;
  }
}

async function reportProgress(
  { ledger, progress, id, phases, pace }: MigrationRun,
  observe: () => Promise<MigrationJob | null>,
): Promise<never> {
  for (;;) {
    await sleep(timing(pace).progressIntervalMs);
    const job = await observe();
    if (job === null) continue;
    const eta = migrationEtaS(job);
    progress.setDetail(
      'job',
      `${mib(job.processedBytes)} MiB carried over, ${mib(job.remainingBytes)} MiB left; ${eta === null ? 'no end in sight' : `about ${eta} s left`}`,
    );
    await ledger.recordMigrationProgress(id, phases, job);
  }
}

/** A look that failed is no failure of the migration. */
function reportUnlessCancelled({ progress }: MigrationRun, error: unknown): void {
  if (!isCancellation(error)) progress.setDetail('job', `how it goes can't be seen: ${taskErrorOf(error).message}`);
}

/** What was begun at the source ends there. Whether it came in time is for both hosts to say. */
async function abortAtSource({ route: place, vmId, progress, pace }: MigrationRun): Promise<boolean> {
  try {
    await onHost(place.from.id, pace, 'throw').abortMigration(vmId, place.sourceGeneration, place.vm.generation);
    return true;
  } catch (error) {
    progress.setDetail('abort', `the migration could not be ended at ${place.from.id}: ${taskErrorOf(error).message}`);
    return false;
  }
}

/** A host that is silent now, or refuses for too long, is cleaned by its own reconciliation, which knows the generations. */
async function cleanUpHost(move: MigrationRun, which: 'from' | 'to'): Promise<void> {
  const { route: place, pace, vmId, progress } = move;
  const host = place[which];
  const generation = which === 'from' ? place.sourceGeneration : place.vm.generation;
  try {
    await trackPhase(move, 'release', () =>
      withCleanupTimeout(pace, () => onHost(host.id, pace, 'throw').removeLeftover(vmId, generation, place.home.id === host.id)),
    );
  } catch (error) {
    progress.setDetail('release', `${host.id} is left to its reconciliation: ${taskErrorOf(error).message}`);
    await notifyReconciliation(host.id);
  }
}

/**
 * More than the hypervisor's word. It comes behind the commit, because nothing could be undone any more: a guest that is
 * silent at the target is one for its owner and for whoever looks here.
 */
async function checkGuest(move: MigrationRun, answered: boolean): Promise<void> {
  const { route: place, vmId, progress } = move;
  const guest = await probeGuest(move, answered);
  if (guest === 'silent') {
    progress.setDetail('guest', `**the guest of ${vmId} is silent** at ${place.to.id} since it moved: its agent answered before`);
    log.warn('A guest is silent since it moved', { vmId, host: place.to.id });
  }
  await retryForever(move, (ledger) => ledger.recordMigratedGuest(move.id, guest));
}

async function probeGuest({ route: place, vmId, pace, progress }: MigrationRun, answered: boolean): Promise<MigratedGuest> {
  try {
    if (await onHost(place.to.id, pace, 'throw').probeGuest(vmId, place.vm.generation)) return 'answers';
    return answered ? 'silent' : 'unknown';
  } catch (error) {
    progress.setDetail(
      'guest',
      `whether the guest of ${vmId} answers at ${place.to.id} can't be known: ${taskErrorOf(error).message}`,
    );
    return 'unknown';
  }
}

/** What a removal, which is tried for ever, may take here: the migration is over without it. */
export function withCleanupTimeout<T>(pace: number, act: () => Promise<T>): Promise<T> {
  const ms = timing(pace).cleanupTimeoutMs;
  return withTimeout(ms, () => failure('host-busy', `it could not be cleaned up within ${ms / 1000} s`), act);
}

/** The end has to be written down, whatever the ledger thinks of it. */
export function retryForever<T>(
  { retry: insistence, ledger, progress }: MigrationRun,
  act: (ledger: LedgerActivities) => Promise<T>,
): Promise<T> {
  return insistence.run(() => act(ledger), reportRefusal(progress));
}

const reportRefusal = (progress: Progress) => (error: unknown) =>
  progress.setDetail('refused', `**the ledger refuses the end of the migration**: ${taskErrorOf(error).message}`);

export async function trackPhase<T>(move: MigrationRun, name: MigrationPhase, act: () => Promise<T>): Promise<T> {
  const entry: PhaseEntry = { name, startedAt: isoNow(), seconds: null, bytes: 0 };
  move.phases.push(entry);
  move.progress.setDetail(
    'step',
    `**${name}** of ${move.vmId} from ${move.route.from.id} to ${move.route.to.id} since ${entry.startedAt}`,
  );
  try {
    return await act();
  } finally {
    entry.seconds = secondsSince(entry.startedAt);
  }
}

/** What went over the network in a phase is known at its end. */
export function setPhaseBytes({ phases }: MigrationRun, name: MigrationPhase, bytes: number): void {
  const entry = phases.find((one) => one.name === name);
  if (entry !== undefined) entry.bytes = bytes;
}

/** As they are to be read later: one that lasts ends with what is being written. */
export function closedPhases({ phases }: MigrationRun): PhaseEntry[] {
  return phases.map((entry) => ({ ...entry, seconds: entry.seconds ?? secondsSince(entry.startedAt) }));
}

/** The source's host measured the switch; it was the end of what the saga saw as one step. */
function splitSwitch({ phases }: MigrationRun, { downtimeMs, bytes }: MigrateOutResult): void {
  const entry = phases.find(({ name }) => name === 'preCopy');
  if (entry === undefined || entry.seconds === null) return;
  entry.bytes = bytes;
  if (downtimeMs === null) return;
  const preCopyMs = Math.max(0, entry.seconds * 1000 - downtimeMs);
  entry.seconds = preCopyMs / 1000;
  const startedAt = new Date(Date.parse(entry.startedAt) + preCopyMs).toISOString();
  phases.push({ name: 'switch', startedAt, seconds: downtimeMs / 1000, bytes: 0 });
}

const secondsSince = (at: string): number => Math.max(0, Date.now() - Date.parse(at)) / 1000;

export function abortReason(root: CancellationScope, error: unknown): TaskError {
  if (root.consideredCancelled) return { code: 'migration-aborted', message: 'The migration was aborted before the switch' };
  return taskErrorOf(error);
}
