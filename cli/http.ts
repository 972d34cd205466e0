import { Agent, type IncomingHttpHeaders, type IncomingMessage, request as requestHttp } from 'node:http';
import { request as requestHttps, Agent as TlsAgent } from 'node:https';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/**
 * HTTP for the calls of this client, on node:http and not on fetch: Node's fetch gives up on a body that is silent for
 * 300 s, and a followed log may be silent for hours. That limit can only be changed with undici, whose current releases
 * need a newer Node than a distribution has.
 */
export interface HttpRequest {
  method: string;
  headers: Record<string, string>;
  /** A stream is sent as it is read, never held in memory as a whole. */
  body: string | AsyncIterable<Uint8Array> | null;
}

export interface HttpResponse {
  status: number;
  headers: IncomingHttpHeaders;
  /** Read it to its end, or destroy it: the process ends no sooner. */
  body: IncomingMessage;
}

export interface Timeouts {
  /** Until there is a connection (with TLS, until its handshake is done). */
  connectMs: number;
  /** From the last byte of the request to the head of the response. The body of the response may take any time. */
  answerMs: number;
}

const defaultTimeouts: Timeouts = { connectMs: 10_000, answerMs: 300_000 };
/** After so long a silence TCP asks the peer whether it is still there, so that a dead one ends a followed log. */
const tcpKeepAliveMs = 30_000;

// A connection for each call: one that is kept may be closed by the server in the moment in which it is used again, and
// then it is unknown whether the server acted on the request. Its end with the answer also ends an upload that the server
// has refused.
const agents = { http: new Agent({ keepAlive: false }), https: new TlsAgent({ keepAlive: false }) };

/** What reading the request's body failed with: no fault of the connection. */
export class BodyError extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

async function* namingItsErrors(source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    throw new BodyError(error);
  }
}

/**
 * Sends a request and resolves with the head of the response, which may come before the whole body is sent: a server
 * refuses an upload that is too large without reading it.
 * @throws BodyError when the body can not be read; else the error of the connection
 */
export async function send(
  url: URL,
  { method, headers, body }: HttpRequest,
  given: Partial<Timeouts> = {},
): Promise<HttpResponse> {
  const timeouts = { ...defaultTimeouts, ...given };
  const secure = url.protocol === 'https:';
  const request = secure
    ? requestHttps(url, { method, headers, agent: agents.https })
    : requestHttp(url, { method, headers, agent: agents.http });
  let timer: NodeJS.Timeout | undefined;
  let answered = false;
  const failAfter = (ms: number, what: string): void => {
    if (!answered) timer = setTimeout(() => request.destroy(new Error(`${what} within ${ms / 1000} s`)), ms);
  };
  request.setSocketKeepAlive(true, tcpKeepAliveMs);
  failAfter(timeouts.connectMs, 'no connection');
  request.once('socket', (socket) => socket.once(secure ? 'secureConnect' : 'connect', () => clearTimeout(timer)));
  request.once('finish', () => failAfter(timeouts.answerMs, 'no answer'));
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve);
      // For its whole life: what breaks after the response has begun is an error of the response's body as well.
      request.on('error', reject);
      if (body === null || typeof body === 'string') request.end(body ?? undefined);
      else pipeline(Readable.from(namingItsErrors(body), { objectMode: false }), request).catch(reject);
    });
    return { status: response.statusCode ?? 0, headers: response.headers, body: response };
  } finally {
    answered = true;
    clearTimeout(timer);
  }
}
