import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type SigningKeys, signingKeyId, signingKeysOf, signUrl, verifySignedUrl } from '../../../model/signed-url.ts';

const key = 'k'.repeat(32);
const other = 'l'.repeat(32);
const now = 1_800_000_000_000;

function parts(text: string) {
  const url = new URL(text);
  return {
    path: url.pathname,
    expires: url.searchParams.get('expires') ?? '',
    keyId: url.searchParams.get('key'),
    signature: url.searchParams.get('signature') ?? '',
  };
}

const signed = parts(signUrl(key, 'http://api.test:8080/', 'GET', '/internal/files/file_1', now, 60));

describe('a signed URL', () => {
  it('is valid for its method and path until it expires', () => {
    const verify = (ms: number) => verifySignedUrl([key], 'GET', signed.path, signed, ms);
    expect(verify(now)).toBe('valid');
    expect(verify(now + 60_000)).toBe('valid');
    expect(verify(now + 60_001)).toBe('expired');
  });

  it.each([
    ['another method', { method: 'PUT' }],
    ['another path', { path: '/internal/files/file_2' }],
    ['a longer life', { expires: String(Number(signed.expires) + 1) }],
    ['a signature by another key', { keyId: signingKeyId(other), keys: [key, other] as SigningKeys }],
    ['a shortened signature', { signature: signed.signature.slice(0, -4) }],
    ['no signature', { signature: '' }],
    ['an expiry that is no number', { expires: 'NaN' }],
  ])('is invalid with %s', (_, change) => {
    const { method, path, keys, ...given } = { keys: [key] as SigningKeys, method: 'GET', ...signed, ...change };
    expect(verifySignedUrl(keys, method, path, given, now)).toBe('invalid');
  });

  it('verifies for every path that a URL can have', () => {
    fc.assert(
      fc.property(fc.webPath(), fc.integer({ min: 1, max: 10 ** 6 }), (path, lifetimeS) => {
        const one = parts(signUrl(key, 'http://api.test', 'PUT', `/internal${path}`, now, lifetimeS));
        expect(verifySignedUrl([key], 'PUT', one.path, one, now + lifetimeS * 1000)).toBe('valid');
        expect(verifySignedUrl([key], 'PUT', one.path, one, now + lifetimeS * 1000 + 1)).toBe('expired');
      }),
    );
  });

  it('does not cover other parameters', () => {
    const url = new URL(signUrl(key, 'http://api.test', 'POST', '/internal/tasks/t/outputs/0', now, 60));
    url.searchParams.set('path', 'out/count');
    const one = parts(url.href);
    expect(verifySignedUrl([key], 'POST', one.path, one, now)).toBe('valid');
  });
});

describe('the keys of signed URLs', () => {
  it('are valid two at a time, whichever signs, and one that was taken away says so', () => {
    const verify = (keys: SigningKeys) => verifySignedUrl(keys, 'GET', signed.path, signed, now);
    expect(verify([key, other])).toBe('valid');
    expect(verify([other, key])).toBe('valid');
    expect(verify([other])).toBe('unknown-key');
  });

  it('come from the configuration, the one that signs first', () => {
    expect(signingKeysOf({ BERTH_SIGNING_KEY: key })).toEqual([key]);
    expect(signingKeysOf({ BERTH_SIGNING_KEY: key, BERTH_SIGNING_KEY_OTHER: other })).toEqual([key, other]);
  });

  it('have ids that tell nothing of them', () => {
    expect(signed.keyId).toBe(signingKeyId(key));
    expect(signed.keyId).toMatch(/^[0-9a-f]{8}$/);
    expect(signingKeyId(other)).not.toBe(signingKeyId(key));
  });

  it('are all tried for a URL without an id, which the version before signed', () => {
    const expires = String(now / 1000 + 60);
    const signature = createHmac('sha256', key).update(`GET\n/internal/files/f\n${expires}`).digest('base64url');
    const given = { expires, signature, keyId: null };
    expect(verifySignedUrl([other, key], 'GET', '/internal/files/f', given, now)).toBe('valid');
    expect(verifySignedUrl([other], 'GET', '/internal/files/f', given, now)).toBe('invalid');
  });

  it('never make a URL valid that none of them signed, whatever it names', () => {
    const text = fc.string({ minLength: 32, maxLength: 40 });
    fc.assert(
      fc.property(text, text, text, (signer, one, two) => {
        fc.pre(signer !== one && signer !== two);
        const forged = parts(signUrl(signer, 'http://api.test', 'GET', '/internal/files/f', now, 60));
        for (const keyId of [forged.keyId, signingKeyId(one), signingKeyId(two), '', null])
          expect(verifySignedUrl([one, two], 'GET', forged.path, { ...forged, keyId }, now)).not.toBe('valid');
      }),
    );
  });
});
