import { setTimeout as pause } from 'node:timers/promises';
import { fractionOf, nextState } from '../../../scheduler/simulation/mulberry32.ts';
import { filledImage } from '../fill-ledger.ts';

/** For each task that is submitted, so many of each request. */
const mix = { task: 1, read: 2, list: 0.2, quote: 0.1, reserve: 0.02 } as const;
export type RequestKind = keyof typeof mix;
const kinds = Object.keys(mix) as RequestKind[];
const requestsPerTask = kinds.reduce((sum, kind) => sum + mix[kind], 0);

const resources = { vcpus: 1, memoryMiB: 1024, diskMiB: 512 };
const lease = { kind: 'bestEffort', durationS: 3600 };
/** Far from due, so that no VM of it starts. */
const reservedInMs = 24 * 3_600_000;
const durationS = 600;
const job = { image: filledImage, command: ['true'], outputs: ['out/*'], resources, timeoutS: durationS };
const requestTimeoutMs = 60_000;

/** What a step of load was answered; times in ms, from when each request was due. */
export interface OfferedLoad {
  times: Record<RequestKind, number[]>;
  failed: { kind: RequestKind; status: number }[];
}

export interface LoadTarget {
  apiUrl: string;
  /** One of each owner. */
  keys: readonly string[];
}

/** Clients of a site in an open loop: requests arrive by a Poisson process, and a late answer delays none. */
export class LoadClients {
  readonly #target: LoadTarget;
  readonly #submitted: { id: string; key: string }[] = [];
  #state = 1;
  #requests = 0;

  constructor(target: LoadTarget) {
    this.#target = target;
  }

  /** @param perSecond tasks; the other requests come with them */
  async offer(perSecond: number, seconds: number): Promise<OfferedLoad> {
    const load: OfferedLoad = { times: { task: [], read: [], list: [], quote: [], reserve: [] }, failed: [] };
    const pending: Promise<void>[] = [];
    const began = performance.now();
    for (let dueMs = began + this.#gapMs(perSecond); dueMs < began + seconds * 1000; dueMs += this.#gapMs(perSecond)) {
      const early = dueMs - performance.now();
      if (early > 0) await pause(early);
      pending.push(this.#request(this.#drawKind(), dueMs, load));
    }
    await pause(Math.max(0, began + seconds * 1000 - performance.now()));
    await Promise.all(pending);
    return load;
  }

  #random(): number {
    this.#state = nextState(this.#state);
    return fractionOf(this.#state);
  }

  #gapMs(perSecond: number): number {
    return (-Math.log(1 - this.#random()) * 1000) / (perSecond * requestsPerTask);
  }

  #drawKind(): RequestKind {
    let drawn = this.#random() * requestsPerTask;
    const kind = kinds.find((one) => {
      drawn -= mix[one];
      return drawn < 0;
    });
    // A reader needs a task.
    return kind === 'read' && this.#submitted.length === 0 ? 'list' : (kind ?? 'task');
  }

  async #request(kind: RequestKind, dueMs: number, load: OfferedLoad): Promise<void> {
    const { keys } = this.#target;
    const key = keys[Math.floor(this.#random() * keys.length)]!;
    const status = await this.#send(kind, key);
    if (status < 200 || status > 299) load.failed.push({ kind, status });
    else load.times[kind].push(performance.now() - dueMs);
  }

  async #send(kind: RequestKind, key: string): Promise<number> {
    if (kind === 'task') return this.#submit(key);
    if (kind === 'reserve') return this.#reserve(key);
    if (kind === 'quote') return (await this.#call(key, '/v1/quotes', { image: filledImage, resources, lease })).status;
    if (kind === 'list') return (await this.#call(key, '/v1/tasks?limit=100')).status;
    const task = this.#submitted[Math.floor(this.#random() * this.#submitted.length)]!;
    return (await this.#call(task.key, `/v1/tasks/${task.id}`)).status;
  }

  async #reserve(key: string): Promise<number> {
    const startAt = new Date(Date.now() + reservedInMs).toISOString();
    return (await this.#call(key, '/v1/tasks', { ...job, lease: { kind: 'reservation', startAt, durationS } })).status;
  }

  async #submit(key: string): Promise<number> {
    const { status, json } = await this.#call(key, '/v1/tasks', { ...job, lease });
    const id = (json as { id?: unknown } | null)?.id;
    if (status === 202 && typeof id === 'string') this.#submitted.push({ id, key });
    return status;
  }

  /** A request without an answer has the status 0. */
  async #call(key: string, path: string, body?: object): Promise<{ status: number; json: unknown }> {
    this.#requests += 1;
    const headers = {
      authorization: `Bearer ${key}`,
      ...(body !== undefined && { 'content-type': 'application/json', 'idempotency-key': `knee-${this.#requests}` }),
    };
    const init = { headers, ...(body !== undefined && { method: 'POST', body: JSON.stringify(body) }) };
    try {
      const answer = await fetch(new URL(path, this.#target.apiUrl), { ...init, signal: AbortSignal.timeout(requestTimeoutMs) });
      return { status: answer.status, json: await answer.json() };
    } catch {
      return { status: 0, json: null };
    }
  }
}
