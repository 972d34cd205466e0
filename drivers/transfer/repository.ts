import type { Readable } from 'node:stream';
import { type Dispatcher, request } from 'undici';
import { z } from 'zod';
import { BerthError, type ErrorCode, isErrorCode } from '../../model/errors.ts';
import { messageOf } from '../host/files.ts';
import type { Repository } from '../ports/repository.ts';
import { isRightRefused, rightRefused } from './repository-right.ts';

/** After the last byte of a large file the repository verifies and stores it before it answers. */
const headersTimeoutMs = 120_000;
const bodyTimeoutMs = 60_000;
const answerBytes = 64 * 1024;

const storedSchema = z.object({ file: z.string(), sizeBytes: z.number(), sha256: z.string() });
const sizeSchema = z.object({ sizeBytes: z.number().int().min(0) });

/** The repository over HTTP, by signed URLs. Network errors and its own 5xx are `repository-unavailable`. */
export function openRepository(dispatcher: Dispatcher): Repository {
  return {
    async storeOutput(url, path, sizeBytes, content, signal, attempt) {
      const target = new URL(url);
      target.searchParams.set('path', path);
      const act = `storing output ${path}`;
      const answer = await sendRequest(act, dispatcher, target, {
        method: 'POST',
        headers: {
          'content-type': 'application/octet-stream',
          'content-length': String(sizeBytes),
          // No query parameter, which an API of an earlier version refuses.
          ...(attempt === undefined ? {} : { 'berth-attempt': attempt }),
        },
        body: content,
        signal,
      });
      if (answer.status !== 201) throw repositoryError(act, answer);
      return storedSchema.parse(answer.json);
    },
    async appendLog(url, from, bytes, signal) {
      const act = `appending ${bytes.length} bytes of log`;
      const answer = await sendRequest(act, dispatcher, new URL(url), {
        method: 'PUT',
        headers: {
          'content-type': 'application/octet-stream',
          'content-range': `bytes ${from}-${from + bytes.length - 1}/*`,
        },
        body: bytes,
        signal,
      });
      const gap = sizeSchema.safeParse(answer.json);
      if (answer.status === 409 && gap.success) return gap.data.sizeBytes;
      if (answer.status < 200 || answer.status > 299) throw repositoryError(act, answer);
      return gap.success ? gap.data.sizeBytes : from + bytes.length;
    },
  };
}

interface Answer {
  status: number;
  json: unknown;
}

async function sendRequest(
  act: string,
  dispatcher: Dispatcher,
  url: URL,
  options: { method: 'POST' | 'PUT'; headers: Record<string, string>; body: Buffer | Readable; signal: AbortSignal },
): Promise<Answer> {
  try {
    const { statusCode, body } = await request(url, {
      ...options,
      dispatcher,
      headersTimeout: headersTimeoutMs,
      bodyTimeout: bodyTimeoutMs,
    });
    const text = await readBounded(body);
    return { status: statusCode, json: parseJson(text) };
  } catch (error) {
    options.signal.throwIfAborted();
    // An error of the stream itself, such as an unreadable output.
    if (error instanceof BerthError) throw error;
    throw new BerthError('repository-unavailable', `${act} at ${url.host}: ${messageOf(error)}`, { cause: error });
  }
}

async function readBounded(body: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > answerBytes) throw new Error(`it answered more than ${answerBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not every answer is JSON, for example a proxy's error page: then the status decides.
    return null;
  }
}

const problemSchema = z.object({ code: z.string(), detail: z.string().optional() });
/** Refusals that only the owner of a task or of an image can resolve. */
const ownerErrors = new Set<ErrorCode>(['quota-exceeded', 'too-large', 'disk-full', 'conflict']);

function repositoryError(act: string, { status, json }: Answer): BerthError {
  const problem = problemSchema.safeParse(json);
  const answer = problem.success ? `${problem.data.code}: ${problem.data.detail ?? ''}` : `HTTP ${status}`;
  const message = `${act}: the repository answered ${answer}`;
  if (problem.success && isErrorCode(problem.data.code) && ownerErrors.has(problem.data.code))
    return new BerthError(problem.data.code, message);
  if (isRightRefused(status)) return rightRefused(act, status);
  if (status >= 500 || status === 429) return new BerthError('repository-unavailable', message);
  return new BerthError('outputs-refused', message);
}
