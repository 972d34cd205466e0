import { CancellationScope } from '@temporalio/workflow';
import type { MigrateOut, MigrateOutResult } from '../../contracts/host-migration.ts';
import { convergencePolicyFor, type MigrationJob } from '../../model/migration.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { persistForever } from '../durable/retry-forever.ts';
import { abortReason, earlierConsoleOf, type MigrationAttempt, type MigrationRun, mib, noTransfer } from './migration-run.ts';
import { type PhaseRow, splitSwitch, trackPhase } from './phases.ts';
import { prepareTarget, runPrepare } from './prepare.ts';
import { withProgressReports } from './progress-reports.ts';
import { resolveMigration } from './resolve-migration.ts';

export const livePhases: readonly PhaseRow[] = [
  {
    name: 'prepare',
    does: 'brings the image, the record, the network and the domain to the target',
    undoneBy: 'removeLeftover at the target',
  },
  { name: 'preCopy', does: 'copies the memory while the guest runs', undoneBy: 'abortMigration at the source, then verify' },
  {
    name: 'switch',
    does: 'pauses the guest, hands over, resumes it at the target; one that was paused before stays paused',
    undoneBy: 'nothing: from here on an abort is ignored',
  },
  {
    name: 'verify',
    does: 'observes both hypervisors until the decision table has a result',
    undoneBy: 'nothing: it acts only where the result is certain',
  },
];

export async function migrateLive(run: MigrationRun, root: CancellationScope): Promise<MigrationAttempt> {
  const config = await runPrepare(run, root, () => prepareLive(run));
  if ('error' in config) return config;
  try {
    const result = await trackPhase(run, 'preCopy', () => preCopy(run, config));
    splitSwitch(run, result);
    return { result, error: null };
  } catch (error) {
    return { result: noTransfer, error: abortReason(root, error) };
  }
}

async function prepareLive(run: MigrationRun) {
  const { route, pace } = run;
  const target = onHost(route.to.id, pace, 'throw');
  const portableRecord = await prepareTarget(run);
  const diskHostAddress = route.home.id === route.to.id ? null : route.home.address;
  const earlierConsole = earlierConsoleOf(run);
  return target.prepareIncoming({ vm: route.vm, diskHostAddress, portableRecord, paused: route.paused === true, earlierConsole });
}

/** Copies the memory and hands over, with progress reports. */
function preCopy(run: MigrationRun, config: MigrateOut['config']): Promise<MigrateOutResult> {
  const { source, route, vmId, progress } = run;
  const observe = async (): Promise<MigrationJob | null> => {
    const { job } = await source.observeMigration(vmId);
    if (job?.active !== true) return null;
    progress.setDetail('dirty', `the guest writes ${mib(job.dirtyBytesPerS)} MiB/s`);
    return job;
  };
  const order: MigrateOut = {
    vmId,
    generation: route.sourceGeneration,
    targetGeneration: route.vm.generation,
    config,
    targetAddress: route.to.address,
    policy: convergencePolicyFor(config, run.convergeWithinS),
    paused: route.paused === true,
  };
  return withProgressReports(run, observe, () => source.migrateOut(order));
}

/** Ends the migration job at the source. Whether the switch came first is for resolveMigration to observe. */
export async function abortAtSource({ route, vmId, progress, pace }: MigrationRun): Promise<boolean> {
  try {
    await onHost(route.from.id, pace, 'throw').abortMigration(vmId, route.sourceGeneration, route.vm.generation);
    return true;
  } catch (error) {
    progress.setDetail('abort', `the migration could not be aborted at ${route.from.id}: ${taskErrorOf(error).message}`);
    return false;
  }
}

/**
 * Turns a migration whose pre-copy did not converge into a cold one, once both hosts agree that the VM runs at the source
 * alone; what was prepared at the target serves the cold one as well. @returns false: it ends as a live one
 */
export async function fallBackToCold(run: MigrationRun): Promise<boolean> {
  return CancellationScope.nonCancellable(async () => {
    if ((await trackPhase(run, 'verify', () => resolveMigration(run, () => abortAtSource(run)))) !== 'stayed') return false;
    await persistForever(run, 'the change to a cold migration', (ledger) => ledger.fallBackToCold(run.id));
    return true;
  });
}
