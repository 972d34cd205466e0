import { createHash, randomBytes } from 'node:crypto';

/** A new API key: 256 random bits. It is shown once; the ledger keeps its hash alone. */
export function newApiKey(): string {
  return `berth_${randomBytes(32).toString('base64url')}`;
}

/** SHA-256 in hexadecimal, as ApiKey.hash holds it. A plain hash is enough: a key is random, not a password. */
export function hashApiKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}
