import type { WebhookId } from '../model/webhooks/webhook.ts';

/**
 * What a webhook's workflow does next. `ended`: it was removed or disabled. `again`: there is more, or it has changed. `idle`: all
 * events were delivered, and a signal says when there are more. `retry`: an attempt has failed.
 */
export type DeliveryStep = { owner: string } & (
  | { next: 'again' | 'idle' }
  | { next: 'retry'; waitMs: number; failures: number; error: string }
);

/** The activities of the queue `webhooks`. */
export interface WebhookActivities {
  /**
   * Delivers the events of one endpoint in their order, as long as there are some and none fails, for some minutes at the most.
   * Its cursor follows in the ledger, so an attempt that is repeated goes on where the one before was. null: it was removed or
   * disabled.
   */
  deliverEvents(id: WebhookId): Promise<DeliveryStep | null>;
}
