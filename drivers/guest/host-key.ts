import { generateKeyPairSync, randomBytes } from 'node:crypto';

/** An SSH host key: the contents of sshd's two files. */
interface HostKey {
  private: string;
  public: string;
}

/**
 * A new ed25519 key in OpenSSH's format (PROTOCOL.key in its source). Made on the host, where it takes less than a
 * millisecond instead of seconds in an emulated guest; and because a guest that has just started from a template has no
 * randomness but the seed that Berth sends.
 */
export function newHostKey(comment: string): HostKey {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const { x, d } = privateKey.export({ format: 'jwk' });
  if (x === undefined || d === undefined || publicKey.asymmetricKeyType !== 'ed25519') throw new Error('BUG: no ed25519 key');
  const [open, secret] = [Buffer.from(x, 'base64url'), Buffer.from(d, 'base64url')];
  const blob = Buffer.concat([sshString('ssh-ed25519'), sshString(open)]);
  // The same number twice: by it a reader of an encrypted key checks the passphrase.
  const check = randomBytes(4);
  const plain = Buffer.concat([check, check, blob, sshString(Buffer.concat([secret, open])), sshString(comment)]);
  const padding = Buffer.from(Array.from({ length: (8 - (plain.length % 8)) % 8 }, (_, index) => index + 1));
  const none = Buffer.concat([sshString('none'), sshString('none'), sshString(''), uint32(1)]);
  const all = Buffer.concat([Buffer.from('openssh-key-v1\0'), none, sshString(blob), sshString(Buffer.concat([plain, padding]))]);
  const lines = all.toString('base64').match(/.{1,70}/g) ?? [];
  return {
    private: ['-----BEGIN OPENSSH PRIVATE KEY-----', ...lines, '-----END OPENSSH PRIVATE KEY-----', ''].join('\n'),
    public: `ssh-ed25519 ${blob.toString('base64')} ${comment}\n`,
  };
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A string with its length before it. */
function sshString(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content as string);
  return Buffer.concat([uint32(bytes.length), bytes]);
}
