import { AnswerLimitError, ApiError, ConnectionError } from './errors.ts';

export interface ClientOptions {
  /** Of the API, as `https://berth.example.net`. */
  url: string;
  apiKey: string;
  /** How often a request is sent before its error is thrown; 5 unless given. */
  attempts?: number;
  /** The pause before the second attempt, which doubles with each; 500 unless given. */
  backoffMs?: number;
  /** How long a request may take; of a stream, how long until it begins. 300,000 unless given. */
  answerMs?: number;
  /** The largest answer that is held in memory; 64 MiB unless given. */
  maxBytes?: number;
}

export interface CallOptions {
  /** Ends the call: it throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface ApiRequest extends CallOptions {
  method?: 'GET' | 'POST' | 'DELETE';
  json?: unknown;
  /** Sent as it is; it has to be in memory, because it is sent again with each attempt. */
  body?: string | Uint8Array<ArrayBuffer>;
  /** Of a POST: the same for all its attempts. A random one unless given. */
  idempotencyKey?: string;
}

type Read<T> = (response: Response, controller: AbortController) => Promise<T>;

const longestBackoffMs = 20_000;
/** A `Retry-After` beyond it is the caller's to wait for. */
const longestRetryAfterS = 120;
const temporary = new Set([429, 500, 502, 503, 504]);

/** Resolves after `ms`, or throws the signal's reason as soon as it is aborted. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  let stop = (): void => undefined;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    stop = () => {
      clearTimeout(timer);
      resolve();
    };
    signal?.addEventListener('abort', stop, { once: true });
  });
  signal?.removeEventListener('abort', stop);
  signal?.throwIfAborted();
}

/** Of `Retry-After`: seconds, or a date. */
function retryAfterOf(headers: Headers): number | null {
  const text = headers.get('retry-after');
  if (text === null) return null;
  if (/^\d+$/.test(text)) return Number(text);
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : Math.max(0, (at - Date.now()) / 1000);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function baseOf(url: string): URL {
  if (!URL.canParse(url)) throw new TypeError('`url` is not a URL; it is one like https://berth.example.net');
  const base = new URL(url);
  if (!/^https?:$/.test(base.protocol)) throw new TypeError('`url` has to begin with https:// or http://');
  if (base.username !== '' || base.password !== '') throw new TypeError('`url` must not contain credentials; use `apiKey`');
  return base;
}

/** The chunks of an answer, at most `maxBytes` in all. */
async function* chunksOf(response: Response, maxBytes: number): AsyncGenerator<Uint8Array> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  let total = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      total += value.length;
      if (total > maxBytes) throw new AnswerLimitError(`The answer has more than ${maxBytes} bytes`);
      yield value;
    }
  } finally {
    // Of a stream that has broken off it rejects once more.
    await reader.cancel().catch(() => undefined);
  }
}

async function bytesOf(response: Response, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunksOf(response, maxBytes)) {
    chunks.push(chunk);
    length += chunk.length;
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Requests to the API with its key, repeated while it is away or has too much to do. */
export class Transport {
  readonly #base: URL;
  // Private to the language, so that a printed client does not show it.
  readonly #authorization: string;
  readonly #attempts: number;
  readonly #backoffMs: number;
  readonly #answerMs: number;
  readonly #maxBytes: number;

  constructor({ url, apiKey, attempts, backoffMs, answerMs, maxBytes }: ClientOptions) {
    this.#base = baseOf(url);
    // fetch would refuse another one as well, with the key in its message.
    if (!/^[\x21-\x7e]+$/.test(apiKey)) throw new TypeError('`apiKey` is empty, or has characters that no API key has');
    this.#authorization = `Bearer ${apiKey}`;
    this.#attempts = attempts ?? 5;
    this.#backoffMs = backoffMs ?? 500;
    this.#answerMs = answerMs ?? 300_000;
    this.#maxBytes = maxBytes ?? 64 << 20;
  }

  /** The body of the answer, parsed. */
  json<T>(path: string, request: ApiRequest = {}): Promise<T> {
    return this.#repeat(path, request, async (response) => {
      const value = parseJson(new TextDecoder().decode(await bytesOf(response, this.#maxBytes)));
      if (value === null) throw new Error('the answer is not JSON');
      return value as T;
    });
  }

  bytes(path: string, request: ApiRequest = {}): Promise<Uint8Array<ArrayBuffer>> {
    return this.#repeat(path, request, (response) => bytesOf(response, this.#maxBytes));
  }

  /**
   * The body of the answer to a GET as it arrives, of any length. Where the connection breaks it is requested again, and what
   * was read already is skipped: what it is for, logs, only grows.
   */
  async *stream(path: string, { signal }: CallOptions = {}): AsyncGenerator<Uint8Array> {
    let read = 0;
    for (let failures = 0; ; ) {
      const [before, began] = [read, Date.now()];
      const { response, controller } = await this.#repeat(path, { signal }, async (response, controller) => ({
        response,
        controller,
      }));
      const abort = (): void => controller.abort(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      try {
        signal?.throwIfAborted();
        let skipped = 0;
        for await (const chunk of chunksOf(response, Number.POSITIVE_INFINITY)) {
          const known = Math.min(read - skipped, chunk.length);
          skipped += chunk.length;
          if (known === chunk.length) continue;
          read += chunk.length - known;
          yield chunk.subarray(known);
        }
        return;
      } catch (error) {
        signal?.throwIfAborted();
        // Node's fetch ends a body that is silent for five minutes: no failure of the API.
        failures = read > before || Date.now() - began > 60_000 ? 1 : failures + 1;
        if (failures >= this.#attempts) throw new ConnectionError(`The stream broke off after ${read} bytes`, { cause: error });
        await pause(this.#backoffOf(failures), signal);
      } finally {
        signal?.removeEventListener('abort', abort);
        controller.abort();
      }
    }
  }

  async #repeat<T>(path: string, request: ApiRequest, read: Read<T>): Promise<T> {
    const { method = 'GET', idempotencyKey = crypto.randomUUID() } = request;
    for (let attempt = 1; ; attempt += 1) {
      request.signal?.throwIfAborted();
      try {
        return await this.#send(path, { ...request, idempotencyKey }, read);
      } catch (error) {
        request.signal?.throwIfAborted();
        const refused = error instanceof ApiError;
        const again = (refused && temporary.has(error.status)) || error instanceof ConnectionError;
        // A DELETE that has succeeded would be answered with 404.
        const repeatable = method !== 'DELETE' || (refused && error.status === 429);
        const afterS = refused ? (error.retryAfterS ?? 0) : 0;
        if (!again || !repeatable || attempt >= this.#attempts || afterS > longestRetryAfterS) throw error;
        await pause(Math.max(afterS * 1000, this.#backoffOf(attempt)), request.signal);
      }
    }
  }

  /** With jitter, so that clients that failed together do not come back together. */
  #backoffOf(attempt: number): number {
    return Math.min(longestBackoffMs, this.#backoffMs * 2 ** (attempt - 1)) * (0.5 + Math.random() / 2);
  }

  async #send<T>(path: string, { method = 'GET', json, body, idempotencyKey, signal }: ApiRequest, read: Read<T>): Promise<T> {
    const controller = new AbortController();
    const headers = new Headers({ authorization: this.#authorization });
    if (json !== undefined) headers.set('content-type', 'application/json');
    else if (body !== undefined) headers.set('content-type', 'application/octet-stream');
    if (method === 'POST' && idempotencyKey !== undefined) headers.set('idempotency-key', idempotencyKey);
    const abort = (): void => controller.abort(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    const timer = setTimeout(() => controller.abort(new Error(`no answer within ${this.#answerMs / 1000} s`)), this.#answerMs);
    try {
      const sent = json === undefined ? (body ?? null) : JSON.stringify(json);
      const init: RequestInit = { method, headers, body: sent, signal: controller.signal, redirect: 'error' };
      const response = await fetch(new URL(path, this.#base), init);
      if (response.ok) return await read(response, controller);
      const problem = parseJson(new TextDecoder().decode(await bytesOf(response, this.#maxBytes)));
      throw new ApiError(response.status, problem, retryAfterOf(response.headers));
    } catch (error) {
      if (error instanceof ApiError || error instanceof AnswerLimitError) throw error;
      throw new ConnectionError(`${this.#base.origin} does not answer: ${reasonOf(error)}`, { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

/** `fetch failed` says nothing; its cause does. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? error.cause.message || error.message : error.message;
}
