import { Resolver } from 'node:dns/promises';
import { Agent, request } from 'undici';
import { redactUrls } from '../../model/input/redact-url.ts';
import { retryAfterOf } from '../../model/webhooks/retry.ts';
import { type WebhookMessage, webhookHeaders } from '../../model/webhooks/signature.ts';
import { messageOf } from '../host/files.ts';
import { raceAbort } from '../host/race-abort.ts';
import type { OpenWebhookEndpoint, WebhookAttempt } from '../ports/webhook-endpoint.ts';
import { pinLookup, type ResolveHost } from '../transfer/pinned-lookup.ts';

interface EndpointOptions {
  /** Whether the URL may lead to an address that is not public. */
  allowInternal: boolean;
  /** From the resolution of the name to the head of the answer. */
  timeoutMs: number;
  resolve?: ResolveHost;
  nowMs?: () => number;
}

const connectTimeoutMs = 10_000;
/** Only the status counts; an answer's body is read to keep the connection, within these bounds. */
const bodyMs = 1000;
const bodyBytes = 64 * 1024;
const headBytes = 16 * 1024;
/** Answers 1xx before the answer: each takes time of this process. */
const maxInterimAnswers = 8;
/** What is kept of an error: a receiver writes it. */
const errorChars = 200;

const dnsTimeoutMs = 3000;

/**
 * Asks name servers, not the system's resolver: that occupies one of few threads of the process for as long as a name server is
 * silent, and other endpoints, and files, would wait for it.
 */
async function resolveByDns(hostname: string): Promise<{ address: string; family: number }[]> {
  const resolver = new Resolver({ timeout: dnsTimeoutMs, tries: 2 });
  const [v4, v6] = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)]);
  const addresses = [
    ...(v4.status === 'fulfilled' ? v4.value.map((address) => ({ address, family: 4 })) : []),
    ...(v6.status === 'fulfilled' ? v6.value.map((address) => ({ address, family: 6 })) : []),
  ];
  if (addresses.length === 0 && v4.status === 'rejected') throw v4.reason;
  return addresses;
}

/** An attempt that failed, in words for the endpoint's owner. */
class AttemptError extends Error {}

/**
 * Sends webhooks to URLs that clients name. A name is resolved once for each connection, its addresses are checked, and the
 * connection uses the first; redirects are not followed; what is read of an answer, and the time for it, are bounded, and nothing
 * is decompressed.
 */
export function webhookEndpoints(options: EndpointOptions): OpenWebhookEndpoint {
  const { allowInternal, timeoutMs, resolve = resolveByDns, nowMs = Date.now } = options;
  return (text) => {
    const url = new URL(text);
    let dispatcher: Agent | null = null;

    async function connect(): Promise<Agent> {
      const pinned = await pinLookup(url, allowInternal, resolve);
      if ('noAddress' in pinned) throw new AttemptError(`${url.hostname} has no address`);
      if ('refused' in pinned)
        throw new AttemptError(`${url.hostname} leads to ${pinned.refused}, which is not a public address`);
      return new Agent({
        connect: { lookup: pinned.lookup, timeout: connectTimeoutMs },
        connections: 1,
        pipelining: 1,
        allowH2: false,
        maxHeaderSize: headBytes,
      });
    }

    async function drop(): Promise<void> {
      const dropped = dispatcher;
      dispatcher = null;
      await dropped?.destroy();
    }

    async function post(
      message: WebhookMessage,
      keys: readonly Buffer[],
      signal: AbortSignal,
    ): Promise<Omit<WebhookAttempt, 'ms'>> {
      dispatcher ??= await raceAbort(connect(), signal);
      const interim = new AbortController();
      let interimAnswers = 0;
      const { statusCode, headers, body } = await request(url, {
        dispatcher,
        method: 'POST',
        signal: AbortSignal.any([signal, interim.signal]),
        headersTimeout: timeoutMs,
        bodyTimeout: bodyMs,
        headers: {
          'content-type': 'application/json',
          'accept-encoding': 'identity',
          'user-agent': 'berth',
          ...webhookHeaders(message, Math.floor(nowMs() / 1000), keys),
        },
        body: message.body,
        onInfo: () => {
          interimAnswers += 1;
          if (interimAnswers > maxInterimAnswers) interim.abort(new AttemptError('it answers 1xx again and again'));
        },
      });
      // The status has decided; a body that does not end costs its connection alone.
      await body.dump({ limit: bodyBytes, signal: AbortSignal.any([signal, AbortSignal.timeout(bodyMs)]) }).catch(drop);
      const retryAfter = headers['retry-after'];
      return {
        status: statusCode,
        error: refusalOf(statusCode),
        retryAfterS: retryAfterOf(Array.isArray(retryAfter) ? retryAfter[0] : retryAfter, nowMs()),
      };
    }

    return {
      async send(message, keys, signal) {
        const began = performance.now();
        const timeout = AbortSignal.timeout(timeoutMs);
        try {
          const attempt = await post(message, keys, AbortSignal.any([signal, timeout]));
          return { ...attempt, ms: Math.round(performance.now() - began) };
        } catch (error) {
          const why = timeout.aborted ? `no answer within ${timeoutMs / 1000} s` : redactUrls(messageOf(error));
          const ms = Math.round(performance.now() - began);
          await drop();
          signal.throwIfAborted();
          return { status: null, error: why.slice(0, errorChars), retryAfterS: null, ms };
        }
      },
      close: drop,
    };
  };
}

function refusalOf(status: number): string | null {
  if (status >= 200 && status < 300) return null;
  if (status >= 300 && status < 400) return `it answered ${status}; redirects are not followed`;
  return `it answered ${status}`;
}
