import { createHash, randomBytes } from 'node:crypto';

/** What grants its bearer something: 256 random bits. It is shown once; the ledger keeps its hash alone. */
export const newSecret = (prefix: string): string => `${prefix}_${randomBytes(32).toString('base64url')}`;

/** SHA-256 in hexadecimal, as the ledger's columns `hash` hold it. A plain hash is enough: a secret is random, not a password. */
export const hashSecret = (secret: string): string => createHash('sha256').update(secret).digest('hex');

export const newApiKey = (): string => newSecret('berth');
export const hashApiKey = hashSecret;
