import { sleep } from '@temporalio/workflow';
import type { MigrateOutResult, MigrationObservation } from '../../contracts/host.ts';
import type { HostId } from '../../model/ids.ts';
import { decideMigration, type MigrationAction, sourceView, targetView } from '../../model/migration.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { timing } from '../durable/timeouts.ts';
import type { MigrationRun } from './migrate-vm.ts';

export type MigrationOutcome = 'committed' | 'stayed' | 'lost';

/**
 * Asks both hosts what they have until the table says where the VM is, and does on the way what the table is certain
 * of. For ever, if need be: what isn't known is touched by nobody, and after a while an operator hears of it.
 * @param abortSource ends what may have been begun at the source; what is seen counts only once it has succeeded. null: it ended.
 * @param firstObservation what the source's host saw of both already, as the first look; null: both are to be asked
 */
export async function resolveMigration(
  move: MigrationRun,
  abortSource: (() => Promise<boolean>) | null,
  firstObservation: MigrateOutResult['observed'] = null,
): Promise<MigrationOutcome> {
  const { initialMs: first, maxMs: longest } = timing(move.pace).ambiguousBackoff;
  const ambiguousSinceMs = Date.now();
  let reported = false;
  let aborted = abortSource === null;
  if (aborted && firstObservation !== null) {
    const from = { domain: firstObservation.from, job: null };
    const { action } = decide(move, from, { domain: firstObservation.to, job: null });
    if (action === 'committed') return action;
  }
  for (let backoffMs = first; ; ) {
    if (abortSource !== null && !aborted) aborted = await abortSource();
    const { action, observed: seen }: Observation = aborted
      ? await observeBoth(move)
      : { action: 'observe', observed: `${move.route.from.id}: unknown` };
    if (action === 'stayed' || action === 'lost' || action === 'committed') return action;
    const { done, refusal } = await applyAction(move, action);
    if (done) continue;
    if (!reported && (action === 'alarm' || Date.now() - ambiguousSinceMs >= timing(move.pace).ambiguousAlertAfterMs)) {
      reported = true;
      await markStuck(move, action, refusal === null ? seen : `${seen}; ${action}: ${refusal}`);
    }
    await sleep(backoffMs);
    backoffMs = Math.min(backoffMs * 2, longest);
  }
}

interface Observation {
  action: MigrationAction;
  observed: string;
}

/** Both at once, each with a limit: a host that doesn't answer is `unknown`, whatever the other says. */
async function observeBoth(move: MigrationRun): Promise<Observation> {
  const { route: place, vmId, pace, progress } = move;
  const ask = async (host: HostId): Promise<MigrationObservation | 'unknown'> => {
    try {
      return await onHost(host, pace, 'throw').observeMigration(vmId);
    } catch (error) {
      progress.setDetail(`seen ${host}`, `${host} can't say: ${taskErrorOf(error).message}`);
      return 'unknown';
    }
  };
  const [from, to] = await Promise.all([ask(place.from.id), ask(place.to.id)]);
  return decide(move, from, to);
}

/** What the table says to what was seen. */
function decide(
  { route: place, progress }: MigrationRun,
  from: MigrationObservation | 'unknown',
  to: MigrationObservation | 'unknown',
): Observation {
  const source = sourceView(from === 'unknown' ? from : from.domain);
  const target = targetView(to === 'unknown' ? to : to.domain);
  const job = from === 'unknown' ? 'unknown' : from.job?.active === true ? 'active' : 'none';
  const action = decideMigration(source, target, job);
  const seen = `${place.from.id}: ${source}, ${place.to.id}: ${target}, job: ${job}`;
  progress.setDetail('seen', `${seen}, so: ${action}`);
  return { action, observed: seen };
}

/** Whether there was something to do that the table is certain of, and it could be done now; or why it could not. */
interface ActionResult {
  done: boolean;
  refusal: string | null;
}

async function applyAction(
  { source, target, route: place, vmId, progress }: MigrationRun,
  action: MigrationAction,
): Promise<ActionResult> {
  const here = place.sourceGeneration;
  const there = place.vm.generation;
  const acts: Partial<Record<MigrationAction, () => Promise<unknown>>> = {
    resumeTarget: () => target.resumeDomain(vmId, there),
    removeTarget: () => target.removeDomainUnlessRunning(vmId, there),
    resumeSource: () => source.resumeDomain(vmId, here),
    removeSource: () => source.removeDomainUnlessRunning(vmId, here),
  };
  const act = acts[action];
  if (act === undefined) return { done: false, refusal: null };
  try {
    await act();
    return { done: true, refusal: null };
  } catch (error) {
    // What it did is seen at the next look.
    const refusal = taskErrorOf(error).message;
    progress.setDetail('act', `${action}: ${refusal}`);
    return { done: false, refusal };
  }
}

async function markStuck(
  { ledger, id, vmId, route: place, progress }: MigrationRun,
  action: MigrationAction,
  seen: string,
): Promise<void> {
  const why =
    action === 'alarm'
      ? `both hosts have a copy that could run (${seen}). Neither is touched. Find out which one is right, and end the other by hand`
      : `it can't be known where it runs (${seen}). It is asked again for ever: bring the silent host back, or end what refuses`;
  progress.setAttributes({ state: 'stuck' });
  progress.setDetail('stuck', `**${vmId} is stuck** between ${place.from.id} and ${place.to.id}: ${why}`);
  await ledger.markMigrationStuck(id, { code: 'ambiguous', message: `Moving ${vmId}: ${why}` });
}
