import { condition, continueAsNew, defineSignal, setHandler, workflowInfo } from '@temporalio/workflow';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notify } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { startMigration } from '../migration/start-migration.ts';

const replanSignal = defineSignal(signalName.replan);

/**
 * The planner: it alone carries out the plan. Whoever changes what the plan is made from tells it; signals that come
 * while it decides are one more decision, however many they are. It knows nothing but when to look again: the plan is
 * made from the ledger each time, so it can be killed at any moment, and be away, and nothing is lost but time.
 */
export async function planLeases(pace = 1): Promise<never> {
  const progress = new Progress();
  const ledger = onLedger(pace);
  let woken = true;
  setHandler(replanSignal, () => {
    woken = true;
  });
  do {
    woken = false;
    let waitMs = timing(pace).planPollMs;
    try {
      const step = await ledger.stepPlan();
      // Not waited for one after the other: who is told late starts late.
      await Promise.all([
        ...step.placed.map((waiter) => notify(workflowId.waiter(waiter), signalName.placed)),
        ...step.leaseOrderChanged.map((task) => notify(workflowId.task(task), signalName.leaseOrderChanged)),
      ]);
      for (const { migration, vm, generation } of step.moves) await startMigration({ id: migration, vmId: vm, generation }, pace);
      if (step.wakeAt !== null) waitMs = Math.min(waitMs, Math.max(1, Date.parse(step.wakeAt) - Date.now()));
      progress.setDetail(
        'step',
        `${step.leases} leases in the plan, decided at ${isoNow()}; next at ${step.wakeAt ?? 'the next change'}`,
      );
      progress.setDetail('failed', null);
    } catch (error) {
      progress.setDetail('failed', `**the plan could not be made** at ${isoNow()}: ${taskErrorOf(error).message}`);
    }
    await condition(() => woken, waitMs);
  } while (!workflowInfo().continueAsNewSuggested);
  return continueAsNew<typeof planLeases>(pace);
}
