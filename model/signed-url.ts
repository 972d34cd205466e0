import { createHmac, timingSafeEqual } from 'node:crypto';

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
  url.searchParams.set('signature', mac(key, method, url.pathname, expires).toString('base64url'));
  return url.href;
}

export function verifySignedUrl(
  key: string,
  method: string,
  path: string,
  expires: string,
  signature: string,
  nowMs: number,
): 'valid' | 'expired' | 'invalid' {
  const given = Buffer.from(signature, 'base64url');
  const expected = mac(key, method, path, expires);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return 'invalid';
  return Number(expires) * 1000 < nowMs ? 'expired' : 'valid';
}
