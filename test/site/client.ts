import { readFile } from 'node:fs/promises';

/** A client of a running site, as a user would write it: HTTP and nothing else. */
export interface Answer<T> {
  status: number;
  headers: Headers;
  body: T;
}

export interface Problem {
  code: string;
  detail: string;
  errors?: { pointer: string; detail: string }[];
}

export interface TaskAnswer {
  id: string;
  state: string;
  workflowId: string;
  vms: string[];
  hosts: string[];
  exitCode: number | null;
  error: { code: string; message: string } | null;
  outputs: { path: string; node: number; file: string; sizeBytes: number; sha256: string }[];
  timeline: { step: string; startedAt: string; endedAt: string | null }[];
  createdAt: string;
  finishedAt: string | null;
}

export interface HostAnswer {
  id: string;
  state: string;
  capacity: { vcpus: number; memoryMiB: number; diskMiB: number };
  used: { vcpus: number; memoryMiB: number; diskMiB: number };
}

export interface CloudEvent {
  id: string;
  type: string;
  subject: string;
  time: string;
  data: Record<string, unknown>;
}

export class SiteClient {
  readonly api: string;
  readonly #key: string;

  constructor(api: string, key: string) {
    this.api = api;
    this.#key = key;
  }

  static async fromKeyFile(api: string, keyFile: string): Promise<SiteClient> {
    return new SiteClient(api, (await readFile(keyFile, 'utf8')).trim());
  }

  async call<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
    const response = await fetch(new URL(path, this.api), {
      method,
      headers: {
        authorization: `Bearer ${this.#key}`,
        ...(body === undefined
          ? {}
          : { 'content-type': body instanceof Uint8Array ? 'application/octet-stream' : 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: body instanceof Uint8Array ? Buffer.from(body) : JSON.stringify(body) }),
      signal: AbortSignal.timeout(60_000),
    });
    const text = await response.text();
    const json = (response.headers.get('content-type') ?? '').includes('json');
    return { status: response.status, headers: response.headers, body: (json ? JSON.parse(text) : text) as T };
  }

  /** Retries while the API is down (these tests kill it), as a client with an Idempotency-Key may. */
  async callWithRetry<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
    const deadline = Date.now() + 60_000;
    for (;;) {
      try {
        const answer = await this.call<T>(method, path, body, headers);
        if (answer.status < 500) return answer;
        if (Date.now() > deadline)
          throw new Error(`${method} ${path}: still ${answer.status} after a minute: ${JSON.stringify(answer.body)}`);
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }

  async upload(name: string, bytes: Uint8Array): Promise<string> {
    const answer = await this.callWithRetry<{ id: string }>('POST', `/v1/files?name=${encodeURIComponent(name)}`, bytes, {
      'idempotency-key': crypto.randomUUID(),
    });
    if (answer.status !== 201) throw new Error(`upload: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body.id;
  }

  async download(file: string): Promise<Buffer> {
    const response = await fetch(new URL(`/v1/files/${file}/content`, this.api), {
      headers: { authorization: `Bearer ${this.#key}` },
    });
    if (!response.ok) throw new Error(`download of ${file}: ${response.status}`);
    return Buffer.from(await response.arrayBuffer());
  }

  async submit(spec: Record<string, unknown>): Promise<TaskAnswer> {
    const answer = await this.callWithRetry<TaskAnswer>('POST', '/v1/tasks', spec, { 'idempotency-key': crypto.randomUUID() });
    if (answer.status !== 202) throw new Error(`submit: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  async task(id: string): Promise<TaskAnswer> {
    return (await this.callWithRetry<TaskAnswer>('GET', `/v1/tasks/${id}`)).body;
  }

  /** Waits until the task is in one of the states, or has ended; throws when it has ended in another state. */
  /** @param pollMs between two looks, each some milliseconds of a processor */
  async until(id: string, states: readonly string[], seconds = 180, pollMs = 50): Promise<TaskAnswer> {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
      const task = await this.task(id);
      if (states.includes(task.state)) return task;
      if (task.finishedAt !== null || Date.now() > deadline) {
        throw new Error(
          `${id} is ${task.state}, not ${states.join(' or ')}: ${JSON.stringify({ error: task.error, timeline: task.timeline })}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
  }

  over(id: string, seconds = 180, pollMs = 50): Promise<TaskAnswer> {
    return this.until(id, ['succeeded', 'failed', 'cancelled'], seconds, pollMs);
  }

  /** All events about one resource, in order. */
  async eventsOf(subject: string): Promise<CloudEvent[]> {
    const found: CloudEvent[] = [];
    let after = '';
    for (;;) {
      const page = await this.callWithRetry<{ items: CloudEvent[]; next: string | null }>('GET', `/v1/events?limit=100${after}`);
      found.push(...page.body.items.filter((event) => event.subject === subject));
      if (page.body.next === null || page.body.items.length === 0) return found;
      after = `&after=${encodeURIComponent(page.body.next)}`;
    }
  }
}
