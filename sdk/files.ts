import { type ListOptions, listItems } from './lists.ts';
import type { File } from './model.ts';
import type { CallOptions, Transport } from './transport.ts';

export class Files {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Stores bytes, which have to be in memory: they are sent again when the connection breaks, and stored once. */
  upload(name: string, body: string | Uint8Array<ArrayBuffer>, options: CallOptions = {}): Promise<File> {
    return this.#transport.json<File>(`/v1/files?name=${encodeURIComponent(name)}`, { ...options, method: 'POST', body });
  }

  get(id: string, options: CallOptions = {}): Promise<File> {
    return this.#transport.json<File>(pathOf(id), options);
  }

  /** The bytes of a stored file, at most the client's `maxBytes`. */
  bytes(id: string, options: CallOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    return this.#transport.bytes(`${pathOf(id)}/content`, options);
  }

  /** Newest first, fetched a page at a time. */
  list(options: ListOptions = {}): AsyncGenerator<File> {
    return listItems<File>(this.#transport, '/v1/files', options);
  }
}

const pathOf = (id: string): string => `/v1/files/${encodeURIComponent(id)}`;
