import { WebSocket } from 'ws';
import { channelMessage, channels } from '../../model/streams/channels.ts';
import { ConsoleState } from '../../model/streams/console.ts';
import { InputQueue } from '../../model/streams/input-queue.ts';
import { parseMessage } from '../../model/streams/messages.ts';
import { CommandError, type Connection } from '../client.ts';
import { connectAgain, endConnection, normalClose, openSocket, socketUrl } from './socket.ts';

interface ConsoleStreamOptions {
  vm: string;
  tailBytes: number;
  /** Takes the keyboard over. */
  write: boolean;
  onOutput(bytes: Uint8Array): Promise<void>;
  /** Whether this client writes. */
  onWriting(writing: boolean): void;
}

/** A VM's console, both ways, over as many connections as it takes. */
export class ConsoleStream {
  readonly #connection: Connection;
  readonly #options: ConsoleStreamOptions;
  readonly #ended = Promise.withResolvers<void>();
  #socket: WebSocket | null = null;
  #place: string | null = null;
  #write: boolean;
  /** Typed while the connection is lost. */
  readonly #queue = new InputQueue();

  constructor(connection: Connection, options: ConsoleStreamOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#write = options.write;
    // Where it can't begin, `run` throws the reason.
    this.#ended.promise.catch(() => undefined);
  }

  async run(): Promise<void> {
    try {
      await this.#connect();
      await this.#ended.promise;
    } catch (error) {
      endConnection(this.#socket);
      throw error;
    }
  }

  /** What is typed while the connection is lost is sent over the next one. */
  type(bytes: Uint8Array): void {
    if (this.#isOpen) this.#send(channels.stdin, bytes);
    else if (this.#write) this.#queue.put(bytes);
  }

  takeOver(): void {
    this.#send(channels.control, Buffer.from('{"write":true}'));
  }

  close(): void {
    this.#ended.resolve();
    this.#socket?.close(normalClose);
  }

  #send(channel: number, bytes: Uint8Array): void {
    if (this.#isOpen) this.#socket?.send(channelMessage(channel, bytes));
  }

  get #isOpen(): boolean {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  async #connect(): Promise<void> {
    const url = socketUrl(this.#connection, `/v1/vms/${encodeURIComponent(this.#options.vm)}/console`);
    url.searchParams.set('tail', String(this.#options.tailBytes));
    url.searchParams.set('write', String(this.#write));
    if (this.#place !== null) url.searchParams.set('place', this.#place);
    this.#socket = await openSocket(this.#connection, url, {
      onMessage: (_, data) => this.#take(data),
      onClose: (socket, code, reason) => this.#lose(socket, code, reason),
      onError: (error) => this.#ended.reject(error),
    });
    for (const bytes of this.#queue.take()) this.#send(channels.stdin, bytes);
  }

  async #take(data: Buffer): Promise<void> {
    const rest = data.subarray(1);
    if (data[0] === channels.stdout) return this.#options.onOutput(rest);
    if (data[0] !== channels.control) return;
    const { place, writing } = parseMessage(ConsoleState, rest, 'the state of a console');
    if (place !== undefined) this.#place = place;
    if (writing === undefined) return;
    // Once another client has it, a new connection must not take it back.
    this.#write = writing;
    this.#options.onWriting(writing);
  }

  async #lose(socket: WebSocket, code: number, reason: string): Promise<void> {
    if (this.#socket !== socket) return this.#ended.resolve();
    if (code === normalClose && reason !== '') throw new CommandError(`The API has ended the connection: ${reason}`);
    if (code === normalClose) return this.#ended.resolve();
    if (this.#place === null) throw new CommandError(`The connection to the console ended (WebSocket code ${code})`);
    await connectAgain(() => this.#connect());
  }
}
