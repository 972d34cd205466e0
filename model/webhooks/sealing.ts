import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';

const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;
const cipher = 'aes-256-gcm';

/** A key that secrets are encrypted with at rest. The first of several encrypts; each decrypts what it has encrypted. */
export interface SealingKey {
  id: string;
  key: Buffer;
}

/** `ID:BASE64`, of 32 bytes each, comma-separated. Its Errors repeat no key. */
export function parseSealingKeys(text: string): SealingKey[] {
  const keys = text.split(',').map((part, index) => {
    const [id = '', base64 = ''] = part.trim().split(':');
    const key = Buffer.from(base64, 'base64');
    if (!/^[A-Za-z0-9_-]{1,32}$/.test(id) || key.length !== keyBytes)
      throw new Error(`key ${index + 1} is not ID:BASE64 with ${keyBytes} bytes, such as 1:$(openssl rand -base64 ${keyBytes})`);
    return { id, key };
  });
  if (new Set(keys.map(({ id }) => id)).size !== keys.length) throw new Error('two keys have the same id');
  return keys;
}

export interface SealedSecret {
  /** Of the key. */
  keyId: string;
  sealed: Uint8Array<ArrayBuffer>;
}

/** @param holder what the secret belongs to: it is not decrypted for anything else */
export function sealSecret([first]: readonly SealingKey[], secret: Uint8Array, holder: string): SealedSecret {
  if (first === undefined) throw new Error('BUG: there is no key to encrypt with');
  const nonce = randomBytes(nonceBytes);
  const sealing = createCipheriv(cipher, first.key, nonce).setAAD(Buffer.from(holder));
  const sealed = Buffer.concat([nonce, sealing.update(secret), sealing.final(), sealing.getAuthTag()]);
  return { keyId: first.id, sealed: new Uint8Array(sealed) };
}

/** Throws an Error where the key is not there any more, or the bytes or the holder are others. */
export function openSealed(keys: readonly SealingKey[], { keyId, sealed }: SealedSecret, holder: string): Buffer {
  const found = keys.find(({ id }) => id === keyId);
  if (found === undefined) throw new Error(`There is no key ${keyId} to decrypt with; see BERTH_WEBHOOK_KEYS`);
  const opening = createDecipheriv(cipher, found.key, sealed.subarray(0, nonceBytes), { authTagLength: tagBytes })
    .setAAD(Buffer.from(holder))
    .setAuthTag(sealed.subarray(-tagBytes));
  return Buffer.concat([opening.update(sealed.subarray(nonceBytes, -tagBytes)), opening.final()]);
}
