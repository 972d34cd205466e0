import { continueAsNew } from '@temporalio/workflow';
import type { DeliveryStep } from '../../contracts/webhooks.ts';
import { signalName } from '../../model/temporal.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import { onWebhooks } from '../durable/activity-proxies.ts';
import { Backoff } from '../durable/backoff.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';

/**
 * Delivers events to one webhook, in their order, until it is removed or disabled. The cursor is in the ledger: this workflow only
 * says when the next activity begins. It waits for a signal while there is nothing to deliver, and for the time of the next
 * attempt, or a signal, while attempts fail. A signal that is lost is repeated (workers/webhooks/wake-webhooks.ts).
 */
export async function deliverWebhook(id: WebhookId, pace = 1): Promise<void> {
  const progress = new Progress();
  const wakeUp = new WakeUp(signalName.wakeUp);
  let backoff: Backoff | null = null;
  do {
    wakeUp.reset();
    let waitMs: number;
    try {
      const step = await onWebhooks(pace).deliverEvents(id);
      // Activated again meanwhile: its signal came before this end.
      if (step === null && !wakeUp.isWoken) return;
      backoff = null;
      waitMs = show(progress, step, pace);
    } catch (error) {
      // What is to be repeated was repeated by then: an operator has to act, such as by a key that is missing.
      progress.setDetail('failed', `**deliveries can't begin** since ${isoNow()}: ${taskErrorOf(error).message}`);
      backoff ??= new Backoff(timing(pace).refusedBackoff);
      waitMs = backoff.next();
    }
    if (waitMs > 0) await wakeUp.wait(waitMs);
  } while (!isHistoryLong());
  return continueAsNew<typeof deliverWebhook>(id, pace);
}

/** @returns how long to wait */
function show(progress: Progress, step: DeliveryStep | null, pace: number): number {
  progress.setDetail('failed', null);
  if (step === null) return 0;
  progress.setAttributes({ owner: step.owner, state: step.next === 'retry' ? 'failing' : 'active' });
  switch (step.next) {
    case 'again':
      return 0;
    case 'idle':
      progress.setDetail('step', `all events were delivered by ${isoNow()}`);
      return timing(pace).webhookPollMs;
    case 'retry':
      progress.setDetail('step', `**attempt ${step.failures} failed** at ${isoNow()}: ${step.error}`);
      return step.waitMs;
  }
}
