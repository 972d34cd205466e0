/** Small pieces, as somebody types them, are kept together: a window of single bytes is as many objects, and each is walked over. */
const chunkBytes = 16 * 1024;

/** The bytes of an input, from the first one that its reader has not confirmed on, to be sent again from there. */
export class InputBuffer {
  #chunks: Uint8Array[] = [];
  /** What is free behind the last chunk. */
  #free: Uint8Array = new Uint8Array(0);
  #from: number;
  #end: number;

  constructor(from: number) {
    this.#from = from;
    this.#end = from;
  }

  /** The offset of the first byte that is kept. */
  get from(): number {
    return this.#from;
  }

  /** The offset after the last one. */
  get end(): number {
    return this.#end;
  }

  get sizeBytes(): number {
    return this.#end - this.#from;
  }

  push(bytes: Uint8Array): void {
    this.#end += bytes.length;
    for (let rest = bytes; rest.length > 0; ) {
      const last = this.#free.length > 0 ? this.#chunks.pop() : undefined;
      const memory = last === undefined ? new Uint8Array(chunkBytes) : this.#free;
      const taken = Math.min(memory.length, rest.length);
      memory.set(rest.subarray(0, taken));
      this.#chunks.push(new Uint8Array(memory.buffer, (last ?? memory).byteOffset, (last?.length ?? 0) + taken));
      this.#free = memory.subarray(taken);
      rest = rest.subarray(taken);
    }
  }

  /** Drops what was confirmed. false: nothing of that was ever here. */
  confirm(at: number): boolean {
    if (at > this.#end) return false;
    while (this.#from < at) {
      const [first] = this.#chunks;
      if (first === undefined) throw new Error('BUG: an input without its bytes');
      const dropped = Math.min(first.length, at - this.#from);
      this.#from += dropped;
      if (dropped === first.length) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(dropped);
    }
    return true;
  }

  /** The bytes from one offset to another, in pieces. */
  *read(from: number, to: number, partBytes: number): Generator<{ at: number; bytes: Uint8Array }> {
    let at = this.#from;
    for (const chunk of this.#chunks) {
      const end = at + chunk.length;
      for (let next = Math.max(at, from); next < Math.min(end, to); ) {
        const last = Math.min(end, to, next + partBytes);
        yield { at: next, bytes: chunk.subarray(next - at, last - at) };
        next = last;
      }
      at = end;
    }
  }
}
