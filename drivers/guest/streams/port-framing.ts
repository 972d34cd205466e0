import { crc32 } from 'node:zlib';
import { bodyBytes } from '../../../model/streams/frames.ts';

/** A frame is never longer on the port: COBS adds a byte in 254. */
const wireBytes = bodyBytes + 4 + Math.ceil((bodyBytes + 4) / 254) + 1;

/**
 * A body as it is on the port (infra/guest/stream.c): with its CRC-32, encoded by COBS (Cheshire and Baker, 1999), between two
 * zeros. The first one ends what the guest has of an earlier connection.
 */
export function encodePortFrame(body: Uint8Array): Buffer {
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(crc32(body));
  const plain = Buffer.concat([body, sum]);
  const wire = Buffer.alloc(plain.length + Math.ceil(plain.length / 254) + 3);
  let [mark, at, code] = [1, 2, 1];
  for (const byte of plain) {
    if (byte !== 0) {
      wire[at++] = byte;
      code += 1;
      if (code !== 0xff) continue;
    }
    wire[mark] = code;
    code = 1;
    mark = at++;
  }
  wire[mark] = code;
  wire[at++] = 0;
  return wire.subarray(0, at);
}

/** null: it is not encoded like that, or was cut. */
function decode(wire: Uint8Array): Buffer | null {
  const plain = Buffer.alloc(wire.length);
  let [from, to] = [0, 0];
  while (from < wire.length) {
    const code = wire[from++] ?? 0;
    if (code === 0 || from + code - 1 > wire.length) return null;
    plain.set(wire.subarray(from, from + code - 1), to);
    to += code - 1;
    from += code - 1;
    if (code !== 0xff && from < wire.length) plain[to++] = 0;
  }
  if (to < 5) return null;
  const body = plain.subarray(0, to - 4);
  return crc32(body) === plain.readUInt32LE(to - 4) ? body : null;
}

/** The bodies of what arrives from a port, in pieces of any size. What is no frame is counted and left out. */
export class PortReader {
  #parts: Uint8Array[] = [];
  #bytes = 0;
  /** Until the first zero: what comes before is the rest of a frame for an earlier connection. */
  #skips = true;
  damaged = 0;

  *push(chunk: Uint8Array): Generator<Buffer> {
    for (let from = 0; from < chunk.length; ) {
      const zero = chunk.indexOf(0, from);
      const end = zero === -1 ? chunk.length : zero;
      this.#keep(chunk.subarray(from, end));
      from = end + 1;
      if (zero === -1) return;
      const body = this.#take();
      if (body !== null) yield body;
    }
  }

  #keep(part: Uint8Array): void {
    if (this.#bytes + part.length > wireBytes) this.#skips = true;
    if (this.#skips) [this.#parts, this.#bytes] = [[], 0];
    else if (part.length > 0) {
      this.#parts.push(part);
      this.#bytes += part.length;
    }
  }

  #take(): Buffer | null {
    const wire = this.#skips || this.#bytes === 0 ? null : Buffer.concat(this.#parts);
    if (this.#skips && this.#bytes > 0) this.damaged += 1;
    [this.#parts, this.#bytes, this.#skips] = [[], 0, false];
    if (wire === null) return null;
    const body = decode(wire);
    if (body === null) this.damaged += 1;
    return body;
  }
}
