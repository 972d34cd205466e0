import type { MigrateOutResult, MigrationObservation } from '../../contracts/host-migration.ts';
import type { HostId } from '../../model/ids.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { Backoff } from '../durable/backoff.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { timing } from '../durable/timeouts.ts';
import type { MigrationAction } from './decision-table.ts';
import { decideMigration, sourceView, targetView } from './decision-table.ts';
import type { MigrationOutcome, MigrationRun } from './migration-run.ts';

/**
 * Observes both hosts until the decision table says where the VM is, and performs the actions that the table is certain of.
 * It retries without limit: where the result is unknown, nothing is changed, and after a while the migration is stuck. The
 * signal `wakeUp` begins the next observation at once.
 * @param abortSource aborts the job at the source; observations count only after it has succeeded. null: the job has ended
 * @param firstObservation what the source's host observed of both after the switch; null: both have to be observed
 */
export async function resolveMigration(
  run: MigrationRun,
  abortSource: (() => Promise<boolean>) | null,
  firstObservation: MigrateOutResult['observed'] = null,
): Promise<MigrationOutcome> {
  const backoff = new Backoff(timing(run.pace).ambiguousBackoff);
  const ambiguousSinceMs = Date.now();
  let reported = false;
  let aborted = abortSource === null;
  if (aborted && firstObservation !== null) {
    const from = { domain: firstObservation.from, job: null };
    const { action } = decide(run, from, { domain: firstObservation.to, job: null });
    if (action === 'committed') return action;
  }
  for (;;) {
    if (abortSource !== null && !aborted) aborted = await abortSource();
    const { action, observed }: Observation = aborted
      ? await observeBoth(run)
      : { action: 'observe', observed: `${run.route.from.id}: unknown` };
    if (action === 'stayed' || action === 'lost' || action === 'committed') return action;
    const { done, refusal } = await applyAction(run, action);
    if (done) continue;
    if (!reported && (action === 'alarm' || Date.now() - ambiguousSinceMs >= timing(run.pace).ambiguousAlertAfterMs)) {
      reported = true;
      await markStuck(run, action, refusal === null ? observed : `${observed}; ${action}: ${refusal}`);
    }
    await run.retry.pause(backoff.next());
  }
}

interface Observation {
  action: MigrationAction;
  observed: string;
}

/** Observes both hosts concurrently, each with a timeout: a host that doesn't answer is `unknown`. */
async function observeBoth(run: MigrationRun): Promise<Observation> {
  const { route, vmId, pace, progress } = run;
  const ask = async (host: HostId): Promise<MigrationObservation | 'unknown'> => {
    try {
      return await onHost(host, pace, 'throw').observeMigration(vmId);
    } catch (error) {
      progress.setDetail(`observed ${host}`, `${host} can't be observed: ${taskErrorOf(error).message}`);
      return 'unknown';
    }
  };
  const [from, to] = await Promise.all([ask(route.from.id), ask(route.to.id)]);
  return decide(run, from, to);
}

/** Applies the decision table to what was observed. */
function decide(
  { route, progress }: MigrationRun,
  from: MigrationObservation | 'unknown',
  to: MigrationObservation | 'unknown',
): Observation {
  const source = sourceView(from === 'unknown' ? from : from.domain);
  const target = targetView(to === 'unknown' ? to : to.domain);
  const job = from === 'unknown' ? 'unknown' : from.job?.active === true ? 'active' : 'none';
  const action = decideMigration(source, target, job, route.paused === true);
  const observed = `${route.from.id}: ${source}, ${route.to.id}: ${target}, job: ${job}`;
  progress.setDetail('observed', `${observed}, so: ${action}`);
  return { action, observed };
}

/** `done`: the action was performed. `refusal`: why the host refused it; null where the table names no action. */
interface ActionResult {
  done: boolean;
  refusal: string | null;
}

async function applyAction(
  { source, target, route, vmId, progress }: MigrationRun,
  action: MigrationAction,
): Promise<ActionResult> {
  const atSource = route.sourceGeneration;
  const atTarget = route.vm.generation;
  const acts: Partial<Record<MigrationAction, () => Promise<unknown>>> = {
    resumeTarget: () => target.resumeDomain(vmId, atTarget),
    removeTarget: () => target.removeDomainUnlessRunning(vmId, atTarget),
    resumeSource: () => source.resumeDomain(vmId, atSource),
    removeSource: () => source.removeDomainUnlessRunning(vmId, atSource),
  };
  const act = acts[action];
  if (act === undefined) return { done: false, refusal: null };
  try {
    await act();
    return { done: true, refusal: null };
  } catch (error) {
    // The next observation shows its effect.
    const refusal = taskErrorOf(error).message;
    progress.setDetail('act', `${action}: ${refusal}`);
    return { done: false, refusal };
  }
}

async function markStuck(
  { ledger, id, vmId, route, progress }: MigrationRun,
  action: MigrationAction,
  observed: string,
): Promise<void> {
  const why =
    action === 'alarm'
      ? `both hosts have a domain that could run (${observed}). Neither is changed. Find out which one is right, and end the other by hand`
      : `it isn't known where it runs (${observed}). Both hosts are observed without limit: bring the unreachable host back, or end what refuses`;
  progress.setAttributes({ state: 'stuck' });
  progress.setDetail('stuck', `**${vmId} is stuck** between ${route.from.id} and ${route.to.id}: ${why}`);
  await ledger.markMigrationStuck(id, { code: 'ambiguous', message: `Migration of ${vmId}: ${why}` });
}
