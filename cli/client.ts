import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as pause } from 'node:timers/promises';
import { BodyError, send } from './http.ts';
import type { Output } from './output.ts';

/** Ends the command with exit code 1; its message is for people, and no stack trace follows. */
export class CommandError extends Error {}

/** The API refused, or did not answer. */
export class CallError extends CommandError {
  /** Null: there was no answer. */
  readonly status: number | null;

  constructor(message: string, status: number | null, cause?: unknown) {
    super(message, { cause });
    this.status = status;
  }
}

/** The command was called in a wrong way: exit code 2. */
export class UsageError extends CommandError {}

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

/** What each command works with. Both are asked for when it runs, because its options are known only then. */
export interface Session {
  connect(): Connection;
  output(): Output;
}

/** From the options, then from BERTH_API, BERTH_KEY and BERTH_KEY_FILE. */
export function readConnection(options: { api?: string; keyFile?: string }, env: Record<string, string | undefined>): Connection {
  const api = options.api ?? env.BERTH_API;
  if (!api) throw new UsageError('Where is the API? Set BERTH_API, or give --api');
  if (!URL.canParse(api) || !/^https?:$/.test(new URL(api).protocol))
    throw new UsageError(`${JSON.stringify(api)} is not a URL of the API; it is one like http://127.0.0.1:8080`);
  const keyFile = options.keyFile ?? env.BERTH_KEY_FILE;
  const key =
    options.keyFile === undefined && env.BERTH_KEY !== undefined
      ? env.BERTH_KEY
      : keyFile && readFileSync(keyFile, 'utf8').trim();
  if (!key) throw new UsageError('Which API key? Set BERTH_KEY or BERTH_KEY_FILE, or give --key-file');
  return { api, key };
}

export interface RequestOptions {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'PUT';
  json?: unknown;
  body?: AsyncIterable<Uint8Array>;
  headers?: Record<string, string>;
  /** How long the head of the answer may take; five minutes unless said. */
  answerMs?: number;
}

export interface ApiResponse {
  status: number;
  headers: IncomingHttpHeaders;
  body: IncomingMessage;
}

function parseProblem(text: string): Problem | null {
  try {
    const value = JSON.parse(text) as Partial<Problem> | null;
    return typeof value?.code === 'string' ? (value as Problem) : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message || error.name : String(error));

/** The whole body. It breaks off when the API is stopped meanwhile. */
async function readBody({ api }: Connection, response: ApiResponse): Promise<string> {
  try {
    return await text(response.body);
  } catch (error) {
    throw new CallError(`${api} broke off its answer: ${messageOf(error)}`, null, error);
  }
}

async function refusal(connection: Connection, response: ApiResponse): Promise<CallError> {
  const { status } = response;
  const problem = parseProblem(await readBody(connection, response));
  if (!problem) return new CallError(`The answer was ${status}; is this the address of Berth's API?`, status);
  const fields = problem.errors.map(({ pointer, detail }) => `\n  ${pointer === '' ? 'body' : pointer}: ${detail}`);
  return new CallError(`${problem.title} (${problem.code}): ${problem.detail}${fields.join('')}`, status);
}

/** One call; throws CallError unless the answer is a 2xx. The body is the caller's to read. */
export async function call(connection: Connection, path: string, options: RequestOptions = {}): Promise<ApiResponse> {
  const { api, key } = connection;
  const json = options.json === undefined ? null : JSON.stringify(options.json);
  const headers = {
    authorization: `Bearer ${key}`,
    ...(json !== null && { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(json)) }),
    ...options.headers,
  };
  let response: ApiResponse;
  try {
    const request = { method: options.method ?? 'GET', headers, body: json ?? options.body ?? null };
    const { answerMs } = options;
    response = await send(new URL(path, api), request, answerMs === undefined ? {} : { answerMs });
  } catch (error) {
    if (error instanceof BodyError) throw error.cause;
    throw new CallError(`${api} does not answer: ${messageOf(error)}`, null, error);
  }
  if (response.status >= 200 && response.status < 300) return response;
  throw await refusal(connection, response);
}

export async function callJson<T>(connection: Connection, path: string, options: RequestOptions = {}): Promise<T> {
  return JSON.parse(await readBody(connection, await call(connection, path, options))) as T;
}

/** A call whose answer has nothing to read; returns its status. */
export async function callEmpty(connection: Connection, path: string, options: RequestOptions): Promise<number> {
  const { status, body } = await call(connection, path, options);
  body.resume();
  return status;
}

const attempts = 4;
const backoffMs = 1_000;

/**
 * Repeats a call while the API is away or has too much to do.
 * @param act may be repeated: a GET, or a request with one Idempotency-Key for all attempts
 */
export async function withRetry<T>(act: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await act();
    } catch (error) {
      const temporary = error instanceof CallError && (error.status === null || error.status === 429 || error.status === 503);
      if (!temporary || attempt === attempts) throw error;
      await pause(backoffMs * attempt);
    }
  }
}

/** POST with one Idempotency-Key for all its attempts. */
export function postOnce<T>(connection: Connection, path: string, json?: object, key: string = randomUUID()): Promise<T> {
  const headers = { 'Idempotency-Key': key };
  return withRetry(() => callJson<T>(connection, path, { method: 'POST', headers, ...(json !== undefined && { json }) }));
}

/** Reads again and again until `isDone`. An API that is away for some seconds does not end it. */
export async function poll<T>(read: () => Promise<T>, isDone: (value: T) => boolean, everyMs = 500): Promise<T> {
  for (;;) {
    const value = await withRetry(read);
    if (isDone(value)) return value;
    await pause(everyMs);
  }
}

const largestPage = 200;

/** The items of a list, newest first, fetched a page at a time as they are asked for. */
export async function* listItems<T>(
  connection: Connection,
  path: string,
  query: Record<string, string>,
  pageSize = largestPage,
): AsyncGenerator<T> {
  const parameters: Record<string, string> = { ...query, limit: String(pageSize) };
  for (;;) {
    const read = () => callJson<{ items: T[]; next: string | null }>(connection, `${path}?${new URLSearchParams(parameters)}`);
    // Not the first page: a wrong address is told at once.
    const { items, next } = await (parameters.cursor === undefined ? read() : withRetry(read));
    yield* items;
    if (next === null) return;
    parameters.cursor = next;
  }
}

/** At most `limit` items of a list. */
export async function list<T>(connection: Connection, path: string, query: Record<string, string>, limit: number): Promise<T[]> {
  const found: T[] = [];
  if (limit === 0) return found;
  for await (const item of listItems<T>(connection, path, query, Math.min(limit, largestPage))) {
    found.push(item);
    if (found.length === limit) break;
  }
  return found;
}
