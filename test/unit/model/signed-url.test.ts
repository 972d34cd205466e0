import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { signUrl, verifySignedUrl } from '../../../model/signed-url.ts';

const key = 'k'.repeat(32);
const now = 1_800_000_000_000;

function parts(text: string): { path: string; expires: string; signature: string } {
  const url = new URL(text);
  return {
    path: url.pathname,
    expires: url.searchParams.get('expires') ?? '',
    signature: url.searchParams.get('signature') ?? '',
  };
}

const signed = parts(signUrl(key, 'http://api.test:8080/', 'GET', '/internal/files/file_1', now, 60));

describe('a signed URL', () => {
  it('is valid for its method and path until it expires', () => {
    const verify = (ms: number) => verifySignedUrl(key, 'GET', signed.path, signed.expires, signed.signature, ms);
    expect(verify(now)).toBe('valid');
    expect(verify(now + 60_000)).toBe('valid');
    expect(verify(now + 60_001)).toBe('expired');
  });

  it.each([
    ['another method', { method: 'PUT' }],
    ['another path', { path: '/internal/files/file_2' }],
    ['a longer life', { expires: String(Number(signed.expires) + 1) }],
    ['another key', { key: 'l'.repeat(32) }],
    ['a shortened signature', { signature: signed.signature.slice(0, -4) }],
    ['no signature', { signature: '' }],
    ['an expiry that is no number', { expires: 'NaN' }],
  ])('is invalid with %s', (_, change) => {
    const given = { key, method: 'GET', ...signed, ...change };
    expect(verifySignedUrl(given.key, given.method, given.path, given.expires, given.signature, now)).toBe('invalid');
  });

  it('verifies for every path that a URL can have', () => {
    fc.assert(
      fc.property(fc.webPath(), fc.integer({ min: 1, max: 10 ** 6 }), (path, lifetimeS) => {
        const one = parts(signUrl(key, 'http://api.test', 'PUT', `/internal${path}`, now, lifetimeS));
        expect(verifySignedUrl(key, 'PUT', one.path, one.expires, one.signature, now + lifetimeS * 1000)).toBe('valid');
        expect(verifySignedUrl(key, 'PUT', one.path, one.expires, one.signature, now + lifetimeS * 1000 + 1)).toBe('expired');
      }),
    );
  });

  it('does not cover other parameters', () => {
    const url = new URL(signUrl(key, 'http://api.test', 'POST', '/internal/tasks/t/outputs/0', now, 60));
    url.searchParams.set('path', 'out/count');
    const one = parts(url.href);
    expect(verifySignedUrl(key, 'POST', one.path, one.expires, one.signature, now)).toBe('valid');
  });
});
