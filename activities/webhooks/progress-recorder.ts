import type { Ledger } from '../../ledger/client.ts';
import { type DeliveryProgress, recordProgress } from '../../ledger/webhooks/record-progress.ts';

/** How long a record waits for others that go with it. */
const gatherMs = 40;
/** Of one statement. */
const mostEndpoints = 200;

interface Pending {
  progress: DeliveryProgress;
  done: PromiseWithResolvers<boolean>;
}

/** Records what all deliveries of this process have done, together. */
export class ProgressRecorder {
  readonly #ledger: Ledger;
  readonly #clock: () => number;
  #pending: Pending[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(ledger: Ledger, clock: () => number) {
    this.#ledger = ledger;
    this.#clock = clock;
  }

  /** @returns whether this process still delivers to the endpoint: no other one has begun to, and it was not changed */
  record(progress: DeliveryProgress): Promise<boolean> {
    const done = Promise.withResolvers<boolean>();
    this.#pending.push({ progress, done });
    this.#timer ??= setTimeout(() => void this.#flush(), gatherMs);
    return done.promise;
  }

  async #flush(): Promise<void> {
    this.#timer = null;
    const batch = this.#pending.splice(0, mostEndpoints);
    if (this.#pending.length > 0) this.#timer = setTimeout(() => void this.#flush(), 0);
    try {
      const ours = await recordProgress(
        this.#ledger,
        batch.map(({ progress }) => progress),
        this.#clock(),
      );
      for (const { progress, done } of batch) done.resolve(ours.has(progress.id));
    } catch (error) {
      for (const { done } of batch) done.reject(error);
    }
  }
}
