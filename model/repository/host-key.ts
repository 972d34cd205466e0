import { createHmac, timingSafeEqual } from 'node:crypto';
import type { SigningKeys } from '../signed-url.ts';

/**
 * The key by which a host worker fetches its orders from the API. It is made of a signing key and the host's id, so that the
 * site has no list of them, and it ends with that signing key.
 */
export function hostKeyOf(signingKey: string, hostId: string): string {
  return `bh_${createHmac('sha256', signingKey).update(`host-key\n${hostId}`).digest('base64url')}`;
}

/** The key by which an edge asks the API for its ports: made like that of a host, and no host's. */
export function edgeKeyOf(signingKey: string, edgeId: string): string {
  return `be_${createHmac('sha256', signingKey).update(`edge-key\n${edgeId}`).digest('base64url')}`;
}

/** Whether a key is this host's, by any of the signing keys. */
export function isHostKey(keys: SigningKeys, hostId: string, given: string): boolean {
  return isOneOf(
    keys.map((key) => hostKeyOf(key, hostId)),
    given,
  );
}

/** Whether a key is this edge's, by any of the signing keys. */
export function isEdgeKey(keys: SigningKeys, edgeId: string, given: string): boolean {
  return isOneOf(
    keys.map((key) => edgeKeyOf(key, edgeId)),
    given,
  );
}

function isOneOf(keys: readonly string[], given: string): boolean {
  const found = Buffer.from(given);
  return keys.some((key) => {
    const expected = Buffer.from(key);
    return found.length === expected.length && timingSafeEqual(found, expected);
  });
}
