import { inputWindowBytes } from './frames.ts';
import { InputBuffer } from './input-buffer.ts';

/** What is typed while there is no connection, up to as much as a host keeps for its guest; more is dropped. */
export class InputQueue {
  #bytes = new InputBuffer(0);

  put(bytes: Uint8Array): void {
    if (this.#bytes.sizeBytes + bytes.length <= inputWindowBytes) this.#bytes.push(bytes);
  }

  /** All of it, in pieces; nothing is held any more. */
  take(): Uint8Array[] {
    const held = this.#bytes;
    this.#bytes = new InputBuffer(0);
    return [...held.read(0, held.end, inputWindowBytes)].map(({ bytes }) => bytes);
  }
}
