import type { HostActivities } from '../../contracts/host.ts';
import type { HostId } from '../../model/ids.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { withTimeout } from '../durable/cancellation-scopes.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { notifyReconciliation } from '../durable/other-workflows.ts';
import { timing } from '../durable/timeouts.ts';
import type { MigrationRun } from './migration-run.ts';
import { trackPhase } from './phases.ts';

/**
 * Removes what the migration left at a host. The removal is retried without limit, so it has a timeout here: a host that is
 * unreachable or refuses is cleaned up by its reconciliation, which compares the generations.
 */
export async function cleanUpOrReconcile(
  { pace, progress }: MigrationRun,
  host: HostId,
  remove: (host: HostActivities) => Promise<unknown>,
): Promise<void> {
  const ms = timing(pace).cleanupTimeoutMs;
  const expired = () => failure('host-busy', `it could not be cleaned up within ${ms / 1000} s`);
  try {
    await withTimeout(ms, expired, () => remove(onHost(host, pace, 'throw')));
  } catch (error) {
    progress.setDetail('release', `the reconciliation of ${host} cleans up: ${taskErrorOf(error).message}`);
    await notifyReconciliation(host);
  }
}

/** After a live migration: removes the VM's record, and its domain if any, at the host where it does not run. */
export function cleanUpHost(run: MigrationRun, which: 'from' | 'to'): Promise<void> {
  const { route, vmId } = run;
  const host = route[which].id;
  const generation = which === 'from' ? route.sourceGeneration : route.vm.generation;
  return trackPhase(run, 'release', () =>
    cleanUpOrReconcile(run, host, (at) => at.removeLeftover(vmId, generation, route.home.id === host)),
  );
}
