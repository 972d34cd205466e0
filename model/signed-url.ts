import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

/** The keys of signed URLs: the first one signs, all of them are valid. Two while a key is replaced by another. */
export type SigningKeys = readonly [string, ...string[]];

/** Of the configuration, in this order. */
export const signingKeysOf = (config: {
  BERTH_SIGNING_KEY: string;
  BERTH_SIGNING_KEY_OTHER?: string | undefined;
}): SigningKeys =>
  config.BERTH_SIGNING_KEY_OTHER === undefined
    ? [config.BERTH_SIGNING_KEY]
    : [config.BERTH_SIGNING_KEY, config.BERTH_SIGNING_KEY_OTHER];

/** How a URL names its key: the start of the key's SHA-256, which nobody has to invent or to keep apart from others. */
export const signingKeyId = (key: string): string => createHash('sha256').update(key).digest('hex').slice(0, 8);

/**
 * Short-lived rights for host workers: method, path and expiry under an HMAC-SHA256. The path carries every id
 * that the right is about; query parameters other than ours are free for the bearer to set.
 */
function mac(key: string, method: string, path: string, expires: string): Buffer {
  return createHmac('sha256', key).update(`${method}\n${path}\n${expires}`).digest();
}

/** @param nowMs the clock, in ms since 1970; @param lifetimeS seconds from now for which the URL holds. */
export function signUrl(key: string, base: string, method: string, path: string, nowMs: number, lifetimeS: number): string {
  const expires = String(Math.ceil(nowMs / 1000) + lifetimeS);
  const url = new URL(path, base);
  url.searchParams.set('expires', expires);
  url.searchParams.set('key', signingKeyId(key));
  url.searchParams.set('signature', mac(key, method, url.pathname, expires).toString('base64url'));
  return url.href;
}

/** The signature of a URL, as its query has it. URLs of versions before key ids have none. */
export interface UrlSignature {
  expires: string;
  keyId: string | null;
  signature: string;
}

/** `unknown-key`: signed by a key that is not valid here, or not any more. */
export type UrlVerdict = 'valid' | 'expired' | 'invalid' | 'unknown-key';

export function verifySignedUrl(keys: SigningKeys, method: string, path: string, given: UrlSignature, nowMs: number): UrlVerdict {
  const named = given.keyId === null ? keys : keys.filter((key) => signingKeyId(key) === given.keyId);
  if (named.length === 0) return 'unknown-key';
  const signature = Buffer.from(given.signature, 'base64url');
  const signed = named.some((key) => {
    const expected = mac(key, method, path, given.expires);
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
  if (!signed) return 'invalid';
  return Number(given.expires) * 1000 < nowMs ? 'expired' : 'valid';
}
