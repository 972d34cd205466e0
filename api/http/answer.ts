import type { StoredAnswer } from '../../ledger/idempotency.ts';

/** A handler's answer; `text` is sent unchanged, so that a repeated answer is the same byte for byte. */
export type Answer = StoredAnswer;

export function json(status: number, body: unknown, location: string | null = null): Answer {
  return { status, text: JSON.stringify(body), location };
}

export const noContent: Answer = { status: 204, text: null, location: null };

/** The handler has sent the answer itself, as a stream. */
export const streamed = 'streamed';
