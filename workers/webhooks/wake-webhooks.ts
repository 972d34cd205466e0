import { type Client, WorkflowIdConflictPolicy } from '@temporalio/client';
import type { Deliverer } from '../../activities/webhooks/deliver-events.ts';
import type { Ledger } from '../../ledger/client.ts';
import type { EventFeed } from '../../ledger/events/feed.ts';
import {
  advanceIdleWebhooks,
  anyActiveWebhook,
  readEpochs,
  wakeBatch,
  wakeWebhooks,
} from '../../ledger/webhooks/wake-webhooks.ts';
import type { Logger } from '../../model/log.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import { type Repeating, startRepeating } from '../repeat.ts';

/** What a delivery waits for at most before it begins, besides its own steps. */
const tickMs = 150;
/** How often epochs are compared, overdue deliveries are found, and a site's first webhook is seen. */
const checkMs = 1000;
/** How often all endpoints that wait are looked at, whatever was seen of their owners' events. */
const sweepMs = 60_000;
/** Deliveries that became idle in this time may have missed what was seen meanwhile. */
const overlapMs = 5000;

interface Deps {
  ledger: Ledger;
  client: Client;
  feed: EventFeed;
  deliverer: Deliverer;
  log: Logger;
  /** ms since 1970, by the ledger's clock */
  clock: () => number;
  /** The factor on the workflows' waits; 1 at a site. */
  pace?: number;
}

/** One round after the other; what they know of each other is kept here. */
class Waking {
  readonly #deps: Deps;
  #active = false;
  #checkedMs = Number.NEGATIVE_INFINITY;
  #sweptMs = Number.NEGATIVE_INFINITY;
  /** Where the feed was, and when; the oldest is older than the overlap. */
  #positions: { seq: bigint; ms: number }[] = [];

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  async step(): Promise<'done' | 'more'> {
    const { ledger, feed, clock } = this.#deps;
    const nowMs = performance.now();
    const checks = nowMs - this.#checkedMs >= checkMs;
    if (checks) {
      this.#checkedMs = nowMs;
      this.#active = await anyActiveWebhook(ledger);
    }
    if (!this.#active) return 'done';
    await feed.tick();
    if (checks) await this.#endSuperseded();
    const since = this.#positionBefore(nowMs - overlapMs);
    this.#positions.push({ seq: feed.last, ms: nowMs });
    const sweeps = nowMs - this.#sweptMs >= sweepMs;
    if (sweeps) {
      this.#sweptMs = nowMs;
      await advanceIdleWebhooks(ledger);
    }
    if (!sweeps && !checks && feed.last === since) return 'done';
    const owners = sweeps ? null : [...feed.ownersSince(since)];
    const woken = await wakeWebhooks(ledger, owners, clock());
    await Promise.all(woken.map((id) => wakeWorkflow(this.#deps, id)));
    return woken.length === wakeBatch ? 'more' : 'done';
  }

  #positionBefore(ms: number): bigint {
    while (this.#positions.length > 1 && this.#positions[1]!.ms <= ms) this.#positions.shift();
    return this.#positions[0]?.seq ?? this.#deps.feed.last;
  }

  async #endSuperseded(): Promise<void> {
    const running = this.#deps.deliverer.running();
    if (running.size === 0) return;
    const epochs = await readEpochs(this.#deps.ledger, [...running.keys()]);
    for (const [id, epoch] of running) if (epochs.get(id) !== epoch) this.#deps.deliverer.supersede(id);
  }
}

/** Also one that does not run: it was ended from outside, or never started. */
async function wakeWorkflow({ client, pace = 1 }: Deps, id: WebhookId): Promise<void> {
  await client.workflow.signalWithStart(workflowType.webhook, {
    taskQueue: controlQueue,
    workflowId: workflowId.webhook(id),
    workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
    args: [id, pace],
    signal: signalName.wakeUp,
  });
}

/**
 * Wakes the workflows of webhooks for which there are events, until it is stopped; several processes may do so at once. It also
 * numbers events, and keeps the feed of this process's deliveries.
 */
export function startWakingWebhooks(deps: Deps): Repeating {
  const waking = new Waking(deps);
  return startRepeating({
    step: () => waking.step(),
    intervalMs: tickMs,
    log: deps.log,
    level: 'warn',
    failure: 'webhooks could not be woken; the next round does it',
  });
}
