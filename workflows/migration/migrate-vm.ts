import { CancellationScope } from '@temporalio/workflow';
import type { LedgerActivities, MigrationRoute } from '../../contracts/ledger.ts';
import type { HostId, TaskId } from '../../model/ids.ts';
import type { MigrationId, MigrationRecord, MigrationState } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { unreachableText } from '../durable/detail-texts.ts';
import { notify, notifyWaiters } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { loadOrFail, persistForever, RetryForever } from '../durable/retry-forever.ts';
import { waitForAdmission } from './admission.ts';
import { cleanUpHost } from './clean-up.ts';
import { checkGuest } from './guest-check.ts';
import { cleanUpColdHosts, coldPhases, migrateCold, resolveColdMigration } from './migrate-cold.ts';
import { diskPhase, runDiskMigration } from './migrate-disks.ts';
import { abortAtSource, fallBackToCold, livePhases, migrateLive } from './migrate-live.ts';
import { abortReason, type MigrationAttempt, type MigrationRun, noTransfer } from './migration-run.ts';
import { closedPhases, type PhaseRow, reservePhase, trackPhase } from './phases.ts';
import { resolveMigration } from './resolve-migration.ts';

const reserve: PhaseRow = {
  name: 'reserve',
  does: 'reserves capacity at the target, beside that at the source',
  undoneBy: 'rollBackMigration, in one transaction with the end',
};
const commit: PhaseRow = {
  name: 'commit',
  does: 'writes host, generation, usage and event in one transaction',
  undoneBy: 'nothing: the VM is at the target',
};
const release: PhaseRow = {
  name: 'release',
  does: "removes what is left at the host where the VM isn't; probes the guest meanwhile",
  undoneBy: "that host's reconciliation, where the host does not answer",
};

export const liveMigrationSteps: readonly PhaseRow[] = [reserve, ...livePhases, commit, release, diskPhase];
export const coldMigrationSteps: readonly PhaseRow[] = [reserve, ...coldPhases, commit, release];

/**
 * One migration of one VM. It ends with the VM at the target, or as before at the source. A pre-copy that doesn't converge
 * is rolled back, or falls back to a cold migration, where that was allowed. Where the disks move alone, the phase
 * `moveDisk` is the only one. Cancelling this workflow aborts the migration. A workflow that finds its migration begun goes
 * straight to finding out where the VM is: the one before it was ended from outside.
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function migrateVm(id: MigrationId, pace = 1): Promise<MigrationState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const retry = new RetryForever(pace);
  const record = await loadOrFail(retry, () => ledger.loadMigration(id));
  if (record.state === 'succeeded' || record.state === 'rolledBack') return record.state;
  if (record.abortRequested) root.cancel();
  const progress = new Progress();
  progress.setAttributes({ owner: record.owner, vms: [record.vmId], state: record.state });
  const startedAt = isoNow();
  let route: MigrationRoute;
  try {
    route = await waitForAdmission(id, ledger, progress, pace);
  } catch (error) {
    // No capacity was reserved and no host was involved: only the ledger has to record the end.
    const phases = [reservePhase(startedAt)];
    const failure = { error: abortReason(root, error), lost: false, downtimeMs: null, bytes: 0, phases };
    await CancellationScope.nonCancellable(async () =>
      notifyWaiters(await persistEnd({ ledger, progress, retry }, (ledger) => ledger.rollBackMigration(id, failure))),
    );
    progress.setAttributes({ state: 'rolledBack' });
    return 'rolledBack';
  }
  const waiting = (host: HostId) =>
    onHost(host, pace, { wait: (step) => progress.setDetail(`silent ${host}`, unreachableText(host, step)) });
  const run: MigrationRun = {
    id,
    vmId: record.vmId,
    route,
    ledger,
    source: waiting(route.from.id),
    target: waiting(route.to.id),
    progress,
    retry,
    pace,
    moveDisk: record.moveDisk && route.home.id !== route.to.id,
    convergeWithinS: record.convergeWithinS,
    phases: [reservePhase(startedAt)],
    cold: { suspended: false, restoring: false, interrupted: false },
  };
  progress.setAttributes({ hosts: [route.from.id, route.to.id] });
  return runMigration(run, record, root);
}

async function runMigration(
  run: MigrationRun,
  {
    mode,
    coldFallback,
    begun,
    committed,
    task,
  }: Pick<MigrationRecord, 'mode' | 'coldFallback' | 'begun' | 'committed'> & { task: TaskId | null },
  root: CancellationScope,
): Promise<MigrationState> {
  const ownerWorkflowId = task === null ? workflowId.vm(run.vmId) : workflowId.task(task);
  if (mode === 'disks' || committed)
    return CancellationScope.nonCancellable(() => runDiskMode(run, mode === 'disks', ownerWorkflowId, root));
  let isCold = mode === 'cold';
  let attempt = begun ? interruptedAttempt(run) : isCold ? await migrateCold(run, root) : await migrateLive(run, root);
  if (coldFallback && attempt.error?.code === 'not-converging' && (await fallBackToCold(run))) {
    isCold = true;
    attempt = await migrateCold(run, root);
  }
  return CancellationScope.nonCancellable(async () => {
    const hasMoved = await endMigration(run, attempt, isCold, ownerWorkflowId);
    if (hasMoved && run.moveDisk && !isCold) {
      // The guest runs at the target meanwhile.
      await runDiskMigration(run, root);
      await notify(ownerWorkflowId, signalName.locationChanged);
    }
    const state = hasMoved ? 'succeeded' : 'rolledBack';
    run.progress.setAttributes({ state });
    return state;
  });
}

/** Of a migration whose workflow was ended from outside: how far it came, both hosts have to be asked. */
function interruptedAttempt({ vmId, cold }: MigrationRun): MigrationAttempt {
  Object.assign(cold, { suspended: true, restoring: true, interrupted: true });
  return {
    result: { ...noTransfer },
    error: { code: 'interrupted', message: `Its workflow was ended from outside; ${vmId} was looked for on both hosts` },
  };
}

const endedWithoutError: TaskError = {
  code: 'hypervisor',
  message: 'The hypervisor ended the migration without success, and without an error',
};

/** Neither host has a live domain: what the hypervisor says of its migration is a consequence. */
function guestEnded({ vmId, route }: MigrationRun, error: TaskError | null): TaskError {
  const said = error === null ? '' : `. The hypervisor: ${error.message}`;
  return {
    code: 'vm-lost',
    message: `The guest of ${vmId} ended during its migration from ${route.from.id} to ${route.to.id}: it powered off or crashed, and neither host has a domain of it${said}`,
  };
}

/** Finds out where the VM is, writes that to the ledger and cleans up the other host. @returns whether it has moved */
async function endMigration(
  run: MigrationRun,
  { result, error, nothingBegun = false }: MigrationAttempt,
  isCold: boolean,
  ownerWorkflowId: string,
): Promise<boolean> {
  const resolve = () =>
    isCold
      ? resolveColdMigration(run, error)
      : resolveMigration(run, error === null ? null : () => abortAtSource(run), result.observed);
  const outcome = nothingBegun ? 'stayed' : await trackPhase(run, 'verify', resolve);
  const totals = () => ({ downtimeMs: result.downtimeMs, bytes: result.bytes, phases: closedPhases(run) });
  if (outcome === 'committed') {
    const notifications = await trackPhase(run, 'commit', () =>
      persistEnd(run, (ledger) => ledger.commitMigration(run.id, totals())),
    );
    await notifyWaiters(notifications);
    await notify(ownerWorkflowId, signalName.locationChanged);
    if (isCold) await cleanUpColdHosts(run, true);
    // A paused guest cannot answer.
    else if (run.route.paused === true) await cleanUpHost(run, 'from');
    else await Promise.all([cleanUpHost(run, 'from'), checkGuest(run, result.agentAnswered)]);
    return true;
  }
  if (!nothingBegun) await (isCold ? cleanUpColdHosts(run, false) : cleanUpHost(run, 'to'));
  const lost = outcome === 'lost';
  const failure = { ...totals(), error: lost ? guestEnded(run, error) : (error ?? endedWithoutError), lost };
  await notifyWaiters(await persistEnd(run, (ledger) => ledger.rollBackMigration(run.id, failure)));
  await notify(ownerWorkflowId, signalName.locationChanged);
  return false;
}

/**
 * A VM that moved earlier, and whose disks follow now. It runs where it is, whatever the result.
 * @param alone its disks are all that moves: without them nothing has
 */
async function runDiskMode(
  run: MigrationRun,
  alone: boolean,
  ownerWorkflowId: string,
  root: CancellationScope,
): Promise<MigrationState> {
  const disksAt = await runDiskMigration(run, root);
  const state = alone && disksAt === 'there' ? 'rolledBack' : 'succeeded';
  await notify(ownerWorkflowId, signalName.locationChanged);
  run.progress.setAttributes({ state });
  return state;
}

const persistEnd = <T>(
  run: Pick<MigrationRun, 'ledger' | 'progress' | 'retry'>,
  write: (ledger: LedgerActivities) => Promise<T>,
): Promise<T> => persistForever(run, 'the end of the migration', write);
