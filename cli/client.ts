import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { type Dispatcher, request } from 'undici';

/** What the API said no with, or that it did not answer; its message is for people. */
export class CallError extends Error {
  readonly status: number | null;

  constructor(message: string, status: number | null, cause?: unknown) {
    super(message, { cause });
    this.status = status;
  }
}

/** Something is wrong with how the command was called. */
export class UsageError extends Error {}

interface Problem {
  title: string;
  detail: string;
  code: string;
  errors: { pointer: string; detail: string }[];
  requestId: string;
}

export interface Connection {
  api: string;
  key: string;
}

/** From the options, then from BERTH_API, BERTH_KEY and BERTH_KEY_FILE. */
export function connection(options: { api?: string; keyFile?: string }, env: Record<string, string | undefined>): Connection {
  const api = options.api ?? env.BERTH_API;
  if (!api) throw new UsageError('Where is the API? Set BERTH_API, or give --api');
  if (!URL.canParse(api))
    throw new UsageError(`${JSON.stringify(api)} is not a URL; the API is at one like http://127.0.0.1:8080`);
  const keyFile = options.keyFile ?? env.BERTH_KEY_FILE;
  const key =
    options.keyFile === undefined && env.BERTH_KEY !== undefined
      ? env.BERTH_KEY
      : keyFile && readFileSync(keyFile, 'utf8').trim();
  if (!key) throw new UsageError('Which API key? Set BERTH_KEY or BERTH_KEY_FILE, or give --key-file');
  return { api, key };
}

export interface Sent {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'PUT';
  json?: unknown;
  body?: AsyncIterable<Uint8Array>;
  headers?: Record<string, string>;
}

export type Answer = Dispatcher.ResponseData;

function asProblem(text: string): Problem | null {
  try {
    const value = JSON.parse(text) as Partial<Problem> | null;
    return typeof value?.code === 'string' ? (value as Problem) : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

async function refusal(answer: Answer): Promise<CallError> {
  const problem = asProblem(await answer.body.text());
  if (!problem)
    return new CallError(`The answer was ${answer.statusCode}; is this the address of Berth's API?`, answer.statusCode);
  const fields = problem.errors.map(({ pointer, detail }) => `\n  ${pointer === '' ? 'body' : pointer}: ${detail}`);
  return new CallError(`${problem.title} (${problem.code}): ${problem.detail}${fields.join('')}`, answer.statusCode);
}

/** One call; throws CallError unless the answer is a 2xx. The body is the caller's to read. */
export async function call({ api, key }: Connection, path: string, sent: Sent = {}): Promise<Answer> {
  const body = sent.body === undefined ? null : Readable.from(sent.body, { objectMode: false });
  const headers = {
    authorization: `Bearer ${key}`,
    ...(sent.json !== undefined && { 'content-type': 'application/json' }),
    ...sent.headers,
  };
  let answer: Answer;
  try {
    answer = await request(new URL(path, api), {
      method: sent.method ?? 'GET',
      headers,
      body: sent.json === undefined ? body : JSON.stringify(sent.json),
      bodyTimeout: 0,
    });
  } catch (error) {
    throw new CallError(`${api} does not answer: ${error instanceof Error ? error.message : String(error)}`, null, error);
  }
  if (answer.statusCode >= 200 && answer.statusCode < 300) return answer;
  throw await refusal(answer);
}

export async function callJson<T>(connected: Connection, path: string, sent: Sent = {}): Promise<T> {
  const answer = await call(connected, path, sent);
  return (await answer.body.json()) as T;
}

const tries = 4;
const pauseMs = 1_000;

/** Repeats what may be repeated (the caller sees to that, with an Idempotency-Key) while the API is away or full. */
export async function patiently<T>(act: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await act();
    } catch (error) {
      const passing = error instanceof CallError && (error.status === null || error.status === 429 || error.status === 503);
      if (!passing || attempt === tries) throw error;
      await pause(pauseMs * attempt);
    }
  }
}

/** Up to `limit` items of a list, over as many pages as that takes. */
export async function list<T>(connected: Connection, path: string, query: Record<string, string>, limit: number): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null = '';
  while (cursor !== null && items.length < limit) {
    const parameters: Record<string, string> = { ...query, limit: String(Math.min(limit - items.length, 200)) };
    if (cursor !== '') parameters.cursor = cursor;
    const page: { items: T[]; next: string | null } = await callJson(connected, `${path}?${new URLSearchParams(parameters)}`);
    items.push(...page.items);
    cursor = page.next;
  }
  return items;
}
