import type { WebhookMessage } from '../../model/webhooks/signature.ts';

/** What became of one attempt. It was taken where `error` is null. */
export interface WebhookAttempt {
  /** The status of the answer; null: there was none. */
  status: number | null;
  error: string | null;
  /** Seconds after which the receiver wants the next attempt; null: it has not said. */
  retryAfterS: number | null;
  ms: number;
}

/** The receiver at one URL. */
export interface WebhookEndpoint {
  /** Sends one message, signed by each key. It rejects only where the signal was aborted. */
  send(message: WebhookMessage, keys: readonly Buffer[], signal: AbortSignal): Promise<WebhookAttempt>;
  close(): Promise<void>;
}

export type OpenWebhookEndpoint = (url: string) => WebhookEndpoint;
