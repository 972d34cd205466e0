import { makeContinueAsNewFunc } from '@temporalio/workflow';
import { shortWorkflowTaskTimeout, signalName, workflowId } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notify } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';
import { startMigration } from '../migration/start-migration.ts';

/**
 * The planner, which alone executes the plan. Components that change the plan's input signal it; signals that arrive during
 * a decision cause one more decision. It holds no state: each plan is made from the ledger, so that a crash loses only time.
 */
export async function planLeases(pace = 1): Promise<never> {
  const progress = new Progress();
  const ledger = onLedger(pace);
  const wakeUp = new WakeUp(signalName.replan);
  do {
    wakeUp.reset();
    let waitMs = timing(pace).planPollMs;
    try {
      const step = await ledger.stepPlan();
      // Concurrently: a lease starts late when its signal is late.
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
    await wakeUp.wait(waitMs);
  } while (!isHistoryLong());
  // One that was started by 0.2.0 has Temporal's own timeout.
  return makeContinueAsNewFunc<typeof planLeases>(shortWorkflowTaskTimeout)(pace);
}
