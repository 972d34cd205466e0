import { createHash } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { open, rm } from 'node:fs/promises';
import type { LookupFunction } from 'node:net';
import { dirname } from 'node:path';
import { Agent, type Dispatcher, request } from 'undici';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { redactUrls } from '../../model/input/redact-url.ts';
import { diskFullOr, isErrno, makeFolder, messageOf, writeStream } from '../host/files.ts';
import type { FetchRequest, InputFetcher } from '../ports/input-fetcher.ts';
import { pinLookup, type ResolveHost } from './pinned-lookup.ts';
import { isRightRefused, rightRefused } from './repository-right.ts';

const maxRedirects = 5;
const headersTimeoutMs = 30_000;
const bodyTimeoutMs = 30_000;
const connectTimeoutMs = 10_000;

const systemResolve: ResolveHost = (hostname) => lookup(hostname, { all: true, verbatim: true });

/**
 * Fetches a task's inputs. URLs of the repository are ours. An outside URL may lead anywhere: its name is resolved once, the
 * address is checked, and the connection uses that address, so that a second resolution can't return another one. The same
 * at each redirect.
 */
export function openInputFetcher(repository: Dispatcher, resolve: ResolveHost = systemResolve): InputFetcher {
  return {
    async fetch(fetchRequest, signal) {
      const limited =
        fetchRequest.source === 'outside'
          ? AbortSignal.any([signal, AbortSignal.timeout(fetchRequest.limitSeconds * 1000)])
          : signal;
      try {
        return await (fetchRequest.source === 'repository'
          ? fetchFromRepository(fetchRequest, repository, limited)
          : fetchExternal(fetchRequest, resolve, limited));
      } catch (error) {
        signal.throwIfAborted();
        await rm(fetchRequest.destination, { force: true });
        if (limited.aborted) throw unavailable(fetchRequest, `it took more than ${fetchRequest.limitSeconds} s`, error);
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
    if (ours && isRightRefused(statusCode)) throw rightRefused(`fetching ${describeInput(fetchRequest)}`, statusCode);
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

/** Errors of this host's own disk, not of the network. */
const diskErrnos = ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS'];

/** Streams to the destination, and computes the digest and the size, whatever was announced. */
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
    // The worker's umask applies to open, not to this.
    if (fetchRequest.mode !== undefined) await file.chmod(fetchRequest.mode);
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

/** A lookup that returns the one address of the URL's host that was checked. */
async function pinnedLookup(fetchRequest: FetchRequest, url: URL, resolve: ResolveHost): Promise<LookupFunction> {
  const pinned = await pinLookup(url, fetchRequest.allowInternal, resolve).catch((error: unknown) => {
    throw unavailable(fetchRequest, messageOf(error), error);
  });
  if ('noAddress' in pinned) throw unavailable(fetchRequest, `${url.hostname} has no address`);
  if ('refused' in pinned)
    throw new BerthError(
      'address-refused',
      `${describeInput(fetchRequest)} leads to ${pinned.refused}, which is not a public address`,
    );
  return pinned.lookup;
}

const describeInput = (fetchRequest: FetchRequest): string =>
  fetchRequest.source === 'repository'
    ? 'an input in the repository'
    : `input ${redactUrls(fetchRequest.url.split(/[?#]/)[0] ?? '')}`;

/** A failure of our own repository is temporary; an outside URL is the caller's to correct. */
function unavailable(fetchRequest: FetchRequest, why: string, cause?: unknown): BerthError {
  const code: ErrorCode = fetchRequest.source === 'repository' ? 'repository-unavailable' : 'input-unavailable';
  return new BerthError(code, `fetching ${describeInput(fetchRequest)}: ${redactUrls(why)}`, { cause });
}

function tooLarge(fetchRequest: FetchRequest, bytes: number): BerthError {
  return new BerthError(
    'inputs-too-large',
    `fetching ${describeInput(fetchRequest)}: ${bytes} bytes or more, at most ${fetchRequest.limitBytes} are taken`,
  );
}
