import type { Client } from '@temporalio/client';
import { type NativeConnection, Worker } from '@temporalio/worker';
import { Counter, Histogram, type Registry } from 'prom-client';
import { guard } from '../../activities/failure.ts';
import { deliveryTiming, openDeliverer } from '../../activities/webhooks/deliver-events.ts';
import { webhookEndpoints } from '../../drivers/webhooks/endpoint.ts';
import type { Ledger } from '../../ledger/client.ts';
import { EventFeed } from '../../ledger/events/feed.ts';
import type { readConfig } from '../../model/config.ts';
import type { Logger } from '../../model/log.ts';
import { webhooksQueue } from '../../model/temporal.ts';
import { loggedBudget } from '../payload-budget.ts';
import { startWakingWebhooks } from './wake-webhooks.ts';

/** Deliveries at a time: each is a connection and a timer; one to a dead endpoint lasts its timeout. */
const maxDeliveries = 1000;

interface Deps {
  connection: NativeConnection;
  namespace: string;
  client: Client;
  ledger: Ledger;
  config: ReturnType<typeof readConfig<'webhooks'>>['webhooks'];
  log: Logger;
  clock: () => number;
  registry: Registry;
}

/** A worker of the queue `webhooks`, in this process. Only here its drivers are chosen. */
export async function startWebhooks(deps: Deps): Promise<{ stop: () => Promise<void> }> {
  const { connection, namespace, client, ledger, config, log, clock, registry } = deps;
  const feed = new EventFeed(ledger);
  const deliverer = openDeliverer({
    ledger,
    feed,
    keys: config.BERTH_WEBHOOK_KEYS,
    open: webhookEndpoints({
      allowInternal: config.BERTH_ALLOW_INTERNAL_URLS,
      timeoutMs: config.BERTH_WEBHOOK_TIMEOUT_S * 1000,
    }),
    clock,
    timing: deliveryTiming,
    onAttempt: countAttempts(registry),
  });
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: webhooksQueue,
    dataConverter: loggedBudget(log),
    activities: guard(deliverer.activities),
    maxConcurrentActivityTaskExecutions: maxDeliveries,
    maxConcurrentActivityTaskPolls: 4,
    shutdownForceTime: '8s',
  });
  const running = worker.run();
  const waking = startWakingWebhooks({ ledger, client, feed, deliverer, log, clock });
  return {
    async stop() {
      await waking.stop();
      worker.shutdown();
      await running;
    },
  };
}

function countAttempts(registry: Registry): (attempt: { taken: boolean; ms: number; lagMs: number }) => void {
  const attempts = new Counter({
    name: 'berth_webhook_attempts_total',
    help: 'Attempts to deliver an event, by whether the endpoint took it',
    labelNames: ['outcome'],
    registers: [registry],
  });
  const seconds = new Histogram({
    name: 'berth_webhook_attempt_seconds',
    help: 'Until an endpoint has answered, or the attempt was given up',
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15],
    registers: [registry],
  });
  const lag = new Histogram({
    name: 'berth_webhook_lag_seconds',
    help: 'From the time of an event until an endpoint has taken it',
    buckets: [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400],
    registers: [registry],
  });
  return ({ taken, ms, lagMs }) => {
    attempts.inc({ outcome: taken ? 'taken' : 'failed' });
    seconds.observe(ms / 1000);
    if (taken) lag.observe(Math.max(0, lagMs) / 1000);
  };
}
