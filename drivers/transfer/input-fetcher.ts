import { createHash } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { open, rm } from 'node:fs/promises';
import { isIP, type LookupFunction } from 'node:net';
import { dirname } from 'node:path';
import ipaddr from 'ipaddr.js';
import { Agent, type Dispatcher, request } from 'undici';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { diskFullOr, isErrno, makeFolder, writeStream } from '../host/files.ts';
import type { FetchRequest, InputFetcher } from '../ports/input-fetcher.ts';

const maxRedirects = 5;
const headersTimeoutMs = 30_000;
const bodyTimeoutMs = 30_000;
const connectTimeoutMs = 10_000;

/** Every address that a name has. A test stands in for it. */
export type ResolveHost = (hostname: string) => Promise<{ address: string; family: number }[]>;
const systemResolve: ResolveHost = (hostname) => lookup(hostname, { all: true, verbatim: true });

/**
 * Fetches a task's inputs. A repository's URL is ours. One from the outside may lead anywhere: its name is resolved once,
 * the address is checked, and the connection goes to that very address, so that a name can't answer differently the
 * second time; and so again at each redirect.
 */
export function openInputFetcher(repository: Dispatcher, resolve: ResolveHost = systemResolve): InputFetcher {
  return {
    async fetch(order, signal) {
      const limited =
        order.source === 'outside' ? AbortSignal.any([signal, AbortSignal.timeout(order.limitSeconds * 1000)]) : signal;
      try {
        return await (order.source === 'repository'
          ? fetchFromRepository(order, repository, limited)
          : fetchExternal(order, resolve, limited));
      } catch (error) {
        signal.throwIfAborted();
        await rm(order.destination, { force: true });
        if (limited.aborted) throw unavailable(order, `it took more than ${order.limitSeconds} s`, error);
        throw error;
      }
    },
  };
}

async function fetchFromRepository(fetchRequest: FetchRequest, repository: Dispatcher, signal: AbortSignal): Promise<Fetched> {
  const fetched = await fetchOnce(fetchRequest, new URL(fetchRequest.url), repository, signal);
  if (fetched instanceof URL) throw new Error('BUG: a redirect of the repository was followed');
  return fetched;
}

async function fetchExternal(
  fetchRequest: FetchRequest,
  resolve: ResolveHost,
  signal: AbortSignal,
): Promise<{ sizeBytes: number; sha256: string }> {
  let url = new URL(fetchRequest.url);
  for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
    const pinned = await pinnedLookup(fetchRequest, url, resolve);
    const dispatcher = new Agent({ connect: { lookup: pinned, timeout: connectTimeoutMs } });
    try {
      const next = await fetchOnce(fetchRequest, url, dispatcher, signal);
      if (!(next instanceof URL)) return next;
      url = next;
    } finally {
      await dispatcher.destroy();
    }
  }
  throw unavailable(fetchRequest, `it redirects more than ${maxRedirects} times`);
}

type Fetched = { sizeBytes: number; sha256: string };

/** The file, or where it redirects to; a repository doesn't redirect. */
async function fetchOnce(
  fetchRequest: FetchRequest,
  url: URL,
  dispatcher: Dispatcher,
  signal: AbortSignal,
): Promise<Fetched | URL> {
  const ours = fetchRequest.source === 'repository';
  const { statusCode, headers, body } = await request(url, {
    dispatcher,
    signal,
    headersTimeout: headersTimeoutMs,
    bodyTimeout: bodyTimeoutMs,
    headers: { 'accept-encoding': 'identity', 'user-agent': 'berth' },
  }).catch((error: unknown) => {
    throw unavailable(fetchRequest, messageOf(error), error);
  });
  try {
    const location = headers.location;
    if (!ours && statusCode >= 300 && statusCode < 400 && typeof location === 'string')
      return redirected(fetchRequest, location, url);
    if (statusCode === 404) throw new BerthError('input-unavailable', `fetching ${describeInput(fetchRequest)}: it isn't there`);
    if (statusCode !== 200) throw unavailable(fetchRequest, `it answered ${statusCode}`);
    const announced = Number(headers['content-length'] ?? 0);
    if (announced > fetchRequest.limitBytes) throw tooLarge(fetchRequest, announced);
    return await receive(fetchRequest, body);
  } finally {
    body.on('error', () => undefined).destroy();
  }
}

function redirected(fetchRequest: FetchRequest, location: string, from: URL): URL {
  const next = URL.parse(location, from.href);
  if (next === null || !['http:', 'https:'].includes(next.protocol))
    throw unavailable(fetchRequest, 'it redirects to what is no http or https URL');
  return next;
}

/** What this host's own disk says, as against the network. */
const diskErrnos = ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS'];

/** Streams to the destination, hashing and counting on the way; whatever was announced. */
async function receive(fetchRequest: FetchRequest, body: AsyncIterable<Buffer>): Promise<Fetched> {
  await makeFolder(dirname(fetchRequest.destination), 0o755);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const file = await open(fetchRequest.destination, 'w', 0o644);
  try {
    await writeStream(file, body, (chunk) => {
      sizeBytes += chunk.length;
      if (sizeBytes > fetchRequest.limitBytes) throw tooLarge(fetchRequest, sizeBytes);
      hash.update(chunk);
    });
  } catch (error) {
    if (error instanceof BerthError || isErrno(error, ...diskErrnos))
      throw diskFullOr(error, `writing ${fetchRequest.destination}`);
    throw unavailable(fetchRequest, messageOf(error), error);
  } finally {
    await file.close();
  }
  const sha256 = hash.digest('hex');
  if (fetchRequest.sha256 !== null && fetchRequest.sha256 !== sha256)
    throw new BerthError(
      'digest-mismatch',
      `${describeInput(fetchRequest)}: expected sha256 ${fetchRequest.sha256}, found ${sha256}`,
    );
  return { sizeBytes, sha256 };
}

/** Resolves and checks a URL's host, and returns a lookup that knows nothing but the answer. */
async function pinnedLookup(fetchRequest: FetchRequest, url: URL, resolve: ResolveHost): Promise<LookupFunction> {
  const hostname = url.hostname.replace(/^\[|\]$/g, '');
  const literal = isIP(hostname);
  const addresses =
    literal !== 0
      ? [{ address: hostname, family: literal }]
      : await resolve(hostname).catch((error: unknown) => {
          throw unavailable(fetchRequest, messageOf(error), error);
        });
  const [first] = addresses;
  if (first === undefined) throw unavailable(fetchRequest, `${hostname} has no address`);
  const internal = addresses.find(({ address }) => !isPublicAddress(address));
  if (internal !== undefined && !fetchRequest.allowInternal)
    throw new BerthError(
      'address-refused',
      `${describeInput(fetchRequest)} leads to ${internal.address}, which is not a public address`,
    );
  return (_hostname, options, callback) => {
    if (options.all === true) callback(null, [first]);
    else callback(null, first.address, first.family);
  };
}

/**
 * Whether an address is one of the public internet's. Everything with a special purpose is not: loopback, private,
 * link-local (clouds' metadata), carrier-grade NAT, multicast, reserved, documentation; nor what carries such an IPv4
 * address inside an IPv6 one.
 */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.isValid(text)) return false;
  // `process` turns IPv4-mapped addresses into the IPv4 ones that they are; what else embeds one isn't `unicast`, or not global.
  const address = ipaddr.process(text);
  if (address instanceof ipaddr.IPv6 && !address.match(globalUnicast)) return false;
  return address.range() === 'unicast';
}

/** What IANA has given out of IPv6 so far. */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3');

const describeInput = (fetchRequest: FetchRequest): string =>
  fetchRequest.source === 'repository' ? 'an input in the repository' : `input ${fetchRequest.url.split('?')[0]}`;
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Our own repository's failure passes; what a caller named is the caller's. */
function unavailable(fetchRequest: FetchRequest, why: string, cause?: unknown): BerthError {
  const code: ErrorCode = fetchRequest.source === 'repository' ? 'repository-unavailable' : 'input-unavailable';
  return new BerthError(code, `fetching ${describeInput(fetchRequest)}: ${why}`, { cause });
}

function tooLarge(fetchRequest: FetchRequest, bytes: number): BerthError {
  return new BerthError(
    'inputs-too-large',
    `fetching ${describeInput(fetchRequest)}: ${bytes} bytes or more, at most ${fetchRequest.limitBytes} are taken`,
  );
}
