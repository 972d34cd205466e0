import { setMaxListeners } from 'node:events';
import { Context } from '@temporalio/activity';
import type { DeliveryStep, WebhookActivities } from '../../contracts/webhooks.ts';
import type { OpenWebhookEndpoint, WebhookAttempt, WebhookEndpoint } from '../../drivers/ports/webhook-endpoint.ts';
import type { Event } from '../../generated/prisma/client.ts';
import type { Ledger } from '../../ledger/client.ts';
import type { EventFeed } from '../../ledger/events/feed.ts';
import { beginDelivery, type StartedDelivery } from '../../ledger/webhooks/begin-delivery.ts';
import { recordFailure } from '../../ledger/webhooks/record-failure.ts';
import type { DeliveryAttempt } from '../../ledger/webhooks/record-progress.ts';
import { BerthError } from '../../model/errors.ts';
import { cloudEventOf, webhookMessageOf } from '../../model/webhooks/message.ts';
import type { SealingKey } from '../../model/webhooks/sealing.ts';
import type { WebhookMessage } from '../../model/webhooks/signature.ts';
import { isForWebhook, type WebhookId } from '../../model/webhooks/webhook.ts';
import { ProgressRecorder } from './progress-recorder.ts';

export interface DeliveryTiming {
  /** One activity lasts so long at most: it is a few events of its workflow's history, whatever is delivered. */
  sliceMs: number;
  /** How long it waits for another event before it ends. */
  lingerMs: number;
  /** After so much delivering its progress is recorded, so that a crash repeats little. */
  recordMs: number;
}

export const deliveryTiming: DeliveryTiming = { sliceMs: 120_000, lingerMs: 10_000, recordMs: 500 };

/** Deliveries between two records. */
const batchSize = 50;

export interface WebhookDeps {
  ledger: Ledger;
  feed: EventFeed;
  keys: readonly SealingKey[];
  open: OpenWebhookEndpoint;
  clock: () => number;
  timing: DeliveryTiming;
  /** Is told of each attempt. */
  onAttempt: (attempt: { taken: boolean; ms: number; lagMs: number }) => void;
}

/** The deliveries of this process. Those of an endpoint that was changed elsewhere are ended at once. */
export interface Deliverer {
  activities: WebhookActivities;
  /** Endpoints that deliveries are made to here, with their epochs. */
  running(): Map<string, number>;
  /** Ends the deliveries to an endpoint here, between two attempts: their workflow begins them again. */
  supersede(id: string): void;
}

export function openDeliverer(deps: WebhookDeps): Deliverer {
  const recorder = new ProgressRecorder(deps.ledger, deps.clock);
  const running = new Map<string, { epoch: number; superseded: AbortController }>();
  const messages = new WeakMap<Event, WebhookMessage>();

  /** Made once for all endpoints that are sent the event. */
  function messageOf(event: Event): WebhookMessage {
    const known = messages.get(event);
    if (known !== undefined) return known;
    const made = webhookMessageOf(cloudEventOf(event));
    messages.set(event, made);
    return made;
  }

  async function deliverEvents(id: WebhookId): Promise<DeliveryStep | null> {
    const begun = await beginDelivery(deps, id);
    if (begun === null) return null;
    const run = { epoch: begun.epoch, superseded: new AbortController() };
    running.set(id, run);
    const endpoint = deps.open(begun.url);
    try {
      return await new Delivery(deps, recorder, begun, endpoint, messageOf, run.superseded.signal).run();
    } finally {
      if (running.get(id) === run) running.delete(id);
      await endpoint.close();
    }
  }

  return {
    activities: { deliverEvents },
    running: () => new Map([...running].map(([id, { epoch }]) => [id, epoch])),
    supersede: (id) => running.get(id)?.superseded.abort(),
  };
}

/** One activity's deliveries to one endpoint. */
class Delivery {
  readonly #deps: WebhookDeps;
  readonly #recorder: ProgressRecorder;
  readonly #begun: StartedDelivery;
  readonly #endpoint: WebhookEndpoint;
  readonly #messageOf: (event: Event) => WebhookMessage;
  readonly #superseded: AbortSignal;
  readonly #cancelled: AbortSignal;
  #cursor: bigint;

  constructor(
    deps: WebhookDeps,
    recorder: ProgressRecorder,
    begun: StartedDelivery,
    endpoint: WebhookEndpoint,
    messageOf: (event: Event) => WebhookMessage,
    superseded: AbortSignal,
  ) {
    this.#deps = deps;
    this.#recorder = recorder;
    this.#begun = begun;
    this.#endpoint = endpoint;
    this.#messageOf = messageOf;
    this.#superseded = superseded;
    this.#cancelled = Context.current().cancellationSignal;
    // Each attempt listens to it, and each wait.
    setMaxListeners(0, this.#cancelled, superseded);
    this.#cursor = begun.cursor;
  }

  async run(): Promise<DeliveryStep> {
    const { ownerId: owner } = this.#begun;
    const { sliceMs, lingerMs } = this.#deps.timing;
    const began = performance.now();
    const stop = AbortSignal.any([this.#cancelled, this.#superseded]);
    for (let activeMs = began; ; ) {
      this.#cancelled.throwIfAborted();
      if (this.#superseded.aborted) return { owner, next: 'again' };
      const events = performance.now() - began > sliceMs ? null : await this.#next();
      if (events === null) {
        await this.#record([], false);
        return { owner, next: 'again' };
      }
      if (events.length > 0) {
        const ended = await this.#deliver(events);
        if (ended !== null) return ended;
      }
      if (events.length > 0 || this.#cursor < this.#deps.feed.last) {
        activeMs = performance.now();
        continue;
      }
      const leftMs = lingerMs - (performance.now() - activeMs);
      if (leftMs > 0) await this.#deps.feed.waitBeyond(this.#cursor, leftMs, stop);
      else return { owner, next: (await this.#record([], true)) ? 'idle' : 'again' };
    }
  }

  /** The next events for the endpoint; null: some after its cursor are kept no more. */
  async #next(): Promise<Event[] | null> {
    const { site, ownerId } = this.#begun;
    const read = this.#deps.feed.read(
      this.#cursor,
      site ? null : ownerId,
      (event) => isForWebhook(this.#begun, event),
      batchSize,
    );
    const fed = await read.catch((error: unknown) => {
      if (error instanceof BerthError && error.code === 'cursor-expired') return null;
      throw error;
    });
    if (fed === null) return null;
    // What is not for it needs no attempt. Of the others the cursor passes each when it was taken.
    if (fed.events.length === 0) this.#cursor = fed.next;
    return fed.events;
  }

  /** Delivers events in their order until one fails. @returns how the activity ends; null: it goes on */
  async #deliver(events: readonly Event[]): Promise<DeliveryStep | null> {
    const { ownerId: owner, id, epoch, keys } = this.#begun;
    const began = performance.now();
    const delivered: DeliveryAttempt[] = [];
    for (const event of events) {
      // An attempt that is cut off may have been taken: it is made again, and the receiver knows it by its id.
      const attempt = await this.#endpoint.send(this.#messageOf(event), keys, this.#cancelled);
      const made = this.#note(event, attempt);
      if (attempt.error !== null) {
        if (delivered.length > 0 && !(await this.#record(delivered, false))) return { owner, next: 'again' };
        const failed = { id, epoch, attempt: { ...made, error: attempt.error }, retryAfterS: attempt.retryAfterS };
        const outcome = await recordFailure(this.#deps, failed);
        // An endpoint that is disabled now: its workflow learns it from the next beginning.
        if (outcome === 'superseded' || outcome === null) return { owner, next: 'again' };
        return { owner, next: 'retry', ...outcome, error: attempt.error };
      }
      delivered.push(made);
      this.#cursor = event.seq;
      if (this.#superseded.aborted || performance.now() - began > this.#deps.timing.recordMs) break;
    }
    return (await this.#record(delivered, false)) ? null : { owner, next: 'again' };
  }

  #note(event: Event, { status, error, ms }: WebhookAttempt): DeliveryAttempt {
    const atMs = this.#deps.clock();
    this.#deps.onAttempt({ taken: error === null, ms, lagMs: atMs - event.time.getTime() });
    return { seq: event.seq, eventId: event.id, type: event.type, status, error, ms, atMs };
  }

  #record(delivered: DeliveryAttempt[], idle: boolean): Promise<boolean> {
    const { id, epoch } = this.#begun;
    return this.#recorder.record({ id, epoch, cursor: this.#cursor, delivered, idle });
  }
}
