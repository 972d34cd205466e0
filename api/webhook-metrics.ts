import { Gauge, type Registry } from 'prom-client';
import type { WebhookCounts } from '../ledger/webhooks/read-webhooks.ts';

/** Gauges of webhooks. What is delivered is counted by the control workers. */
export function openWebhookMetrics(registry: Registry, read: () => Promise<WebhookCounts[]>): void {
  new Gauge({
    name: 'berth_webhooks',
    help: 'Webhooks by state; failing ones are active',
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      const rows = await read();
      for (const state of ['active', 'failing', 'disabled'] as const)
        this.set({ state }, rows.find((row) => row.state === state)?.rows ?? 0);
    },
  });
  new Gauge({
    name: 'berth_webhook_failing_seconds',
    help: 'For how long the webhook that fails longest has failed; 0: none fails',
    registers: [registry],
    async collect() {
      this.set((await read()).find(({ state }) => state === 'failing')?.failingS ?? 0);
    },
  });
}
