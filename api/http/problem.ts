import type { ErrorRequestHandler, Request, Response } from 'express';
import { ledgerError } from '../../ledger/ledger-error.ts';
import { BerthError, type ErrorCode, errorTable } from '../../model/errors.ts';

import { jsonBoundErrors } from './json-bounds.ts';

/** Seconds after which a request may be retried that failed for lack of capacity. */
const retryAfterS = 5;

/** The errors of body-parser and Express, by their `type`, as Berth's. */
const parserErrors: Record<string, { code: ErrorCode; message: string }> = {
  'entity.parse.failed': { code: 'bad-request', message: 'The body is not valid JSON' },
  'entity.too.large': { code: 'too-large', message: 'The body is larger than this route accepts' },
  'encoding.unsupported': { code: 'unsupported-media-type', message: 'The body has a Content-Encoding; send it as it is' },
  'charset.unsupported': { code: 'unsupported-media-type', message: 'The body is not in UTF-8' },
  'request.size.invalid': { code: 'bad-request', message: 'The body has not the length that Content-Length says' },
  ...jsonBoundErrors,
  'request.aborted': { code: 'bad-request', message: 'The request ended before its body was complete' },
};

function property(error: unknown, name: string): unknown {
  return typeof error === 'object' && error !== null ? Reflect.get(error, name) : undefined;
}

/** PostgreSQL, or the connection to it, is unavailable: the request may be repeated unchanged. */
function isLedgerUnavailable(error: unknown): boolean {
  const text = `${String(property(error, 'code'))} ${String(property(property(error, 'cause'), 'code'))} ${String(property(error, 'message'))}`;
  return /\bP1001\b|\bP1002\b|\bP1008\b|\bP1017\b|\bP2024\b|\bP2028\b|ECONNREFUSED|ECONNRESET|DatabaseNotReachable|ConnectionClosed|Connection terminated/.test(
    text,
  );
}

/** Maps every error to one of the table; an unknown one is `internal`, without details of the implementation. */
function toBerthError(error: unknown): BerthError {
  if (error instanceof BerthError) return error;
  const type = property(error, 'type');
  if (typeof type === 'string' && Object.hasOwn(parserErrors, type)) {
    const known = parserErrors[type]!;
    const cause = type === 'entity.parse.failed' ? `: ${String(property(error, 'message'))}` : '';
    return new BerthError(known.code, `${known.message}${cause}`, { cause: error });
  }
  if (error instanceof URIError)
    return new BerthError('bad-request', 'The path is not validly percent-encoded', { cause: error });
  const constraint = ledgerError(error);
  if (constraint) return constraint;
  if (isLedgerUnavailable(error)) {
    return new BerthError('unavailable', 'The ledger does not answer; nothing was changed that was not confirmed', {
      cause: error,
    });
  }
  return new BerthError('internal', 'Berth made a mistake while it handled this request', { cause: error });
}

/** An RFC 9457 problem. `extra` are members that belong to one kind of problem, such as `sizeBytes`. */
export function sendProblem(req: Request, res: Response, error: BerthError, extra: Record<string, unknown> = {}): void {
  const row = errorTable[error.code];
  // These headers describe the answer that the problem replaces.
  for (const name of ['Content-Disposition', 'Content-Length', 'ETag', 'Repr-Digest', 'Accept-Ranges', 'Location'])
    res.removeHeader(name);
  if (row.status === 401) res.setHeader('WWW-Authenticate', 'Bearer realm="berth"');
  if (row.retryable && row.status >= 429 && !res.hasHeader('Retry-After')) res.setHeader('Retry-After', String(retryAfterS));
  res.setHeader('Cache-Control', 'no-store');
  const body = {
    type: `urn:berth:problem:${error.code}`,
    title: row.title,
    status: row.status,
    detail: error.code === 'internal' ? 'Berth made a mistake; the log has it under this request id' : error.message,
    code: error.code,
    errors: error.fields,
    requestId: String(req.id),
    ...error.extra,
    ...extra,
  };
  res.status(row.status).set('Content-Type', 'application/problem+json; charset=utf-8').end(JSON.stringify(body));
}

export function notFound(req: Request): never {
  throw new BerthError('not-found', `There is nothing at ${req.path}`);
}

/** The last handler: logs errors of Berth's own, and answers unless an answer has begun or the caller has disconnected. */
export const answerWithProblem: ErrorRequestHandler = (thrown: unknown, req, res, _next) => {
  if (req.socket.destroyed) {
    req.log.info({ err: thrown }, 'the caller went away');
    return;
  }
  const error = toBerthError(thrown);
  if (error.code === 'internal' || error.code === 'unavailable') req.log.error({ err: thrown, code: error.code }, error.message);
  if (res.headersSent) res.destroy();
  else sendProblem(req, res, error);
};
