/** Reads the fields of a public key's blob: each has its length before it (RFC 4251, section 5). */
class Fields {
  readonly #blob: Buffer;
  #at = 0;

  constructor(blob: Buffer) {
    this.#blob = blob;
  }

  /** null: the blob ends before the field does. */
  next(): Buffer | null {
    if (this.#at + 4 > this.#blob.length) return null;
    const from = this.#at + 4;
    const to = from + this.#blob.readUInt32BE(this.#at);
    if (to > this.#blob.length) return null;
    this.#at = to;
    return this.#blob.subarray(from, to);
  }

  get isRead(): boolean {
    return this.#at === this.#blob.length;
  }
}

/** OpenSSH's least and largest modulus (RequiredRSASize, SSHBUF_MAX_BIGNUM). */
const rsaBits = { min: 1024, max: 16_384 } as const;
const pointBytes: Record<string, number> = { nistp256: 65, nistp384: 97, nistp521: 133 };

function bitsOf(mpint: Buffer): number {
  const first = mpint.findIndex((byte) => byte !== 0);
  return first === -1 ? 0 : (mpint.length - first) * 8 - (Math.clz32(mpint[first]!) - 24);
}

function isRsa(fields: Fields): boolean {
  const [exponent, modulus] = [fields.next(), fields.next()];
  if (exponent === null || modulus === null || bitsOf(exponent) < 2) return false;
  // A negative number has its first bit set.
  if (exponent[0]! >= 128 || modulus[0]! >= 128) return false;
  const bits = bitsOf(modulus);
  return bits >= rsaBits.min && bits <= rsaBits.max;
}

const isEd25519 = (fields: Fields): boolean => fields.next()?.length === 32;

function isEcdsa(fields: Fields, curve: string): boolean {
  if (fields.next()?.toString('latin1') !== curve) return false;
  const point = fields.next();
  return point !== null && point.length === pointBytes[curve] && point[0] === 4;
}

/** Of a security key: what it was made for, such as "ssh:". */
const hasApplication = (fields: Fields): boolean => (fields.next()?.length ?? 0) > 0;

const kinds: Record<string, (fields: Fields) => boolean> = {
  'ssh-ed25519': isEd25519,
  'ssh-rsa': isRsa,
  'ecdsa-sha2-nistp256': (fields) => isEcdsa(fields, 'nistp256'),
  'ecdsa-sha2-nistp384': (fields) => isEcdsa(fields, 'nistp384'),
  'ecdsa-sha2-nistp521': (fields) => isEcdsa(fields, 'nistp521'),
  'sk-ssh-ed25519@openssh.com': (fields) => isEd25519(fields) && hasApplication(fields),
  'sk-ecdsa-sha2-nistp256@openssh.com': (fields) => isEcdsa(fields, 'nistp256') && hasApplication(fields),
};

export const sshKeyTypes = Object.keys(kinds);

/** Why a line is not one public key that sshd takes; null: it is. Options before the key and certificates are refused. */
export function sshKeyProblem(line: string): string | null {
  const match = /^([a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: [ -~]*)?$/.exec(line);
  if (match === null) return 'expected one public key, as a line of authorized_keys without options';
  const [, type = '', text = ''] = match;
  if (!Object.hasOwn(kinds, type)) return `expected a key of one of the types ${sshKeyTypes.join(', ')}`;
  const blob = Buffer.from(text, 'base64');
  if (blob.toString('base64').replace(/=+$/, '') !== text.replace(/=+$/, '')) return `expected base64 after ${type}`;
  const fields = new Fields(blob);
  if (fields.next()?.toString('latin1') !== type) return `expected a key that says itself that it is ${type}`;
  if (!kinds[type]!(fields) || !fields.isRead) return `expected a whole key of type ${type}; copy the line anew`;
  return null;
}
