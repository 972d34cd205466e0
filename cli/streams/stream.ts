import type { Readable } from 'node:stream';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { channelMessage, channels, InputRead, SessionState, StreamStatus } from '../../model/streams/channels.ts';
import { inputWindowBytes, payloadBytes } from '../../model/streams/frames.ts';
import { InputBuffer } from '../../model/streams/input-buffer.ts';
import { parseMessage } from '../../model/streams/messages.ts';
import { CommandError, type Connection } from '../client.ts';
import { connectAgain, endConnection, normalClose, openSocket, socketUrl } from './socket.ts';

const ControlState = z.union([SessionState, InputRead]);

export interface StreamOptions {
  /** Route and parameters of a session that begins. */
  path: string;
  query: [string, string][];
  input: Readable | null;
  /** Resolves when there is room for more. */
  onOutput(channel: 1 | 2, bytes: Uint8Array): Promise<void>;
  /** Called when the connection is lost, and when it is there again. */
  onConnected?: (connected: boolean) => void;
}

/**
 * One session in a guest, over as many connections as it takes: after a lost one it goes on at the byte where it was, in both
 * directions, as the API and the guest count them.
 */
export class Stream {
  readonly #connection: Connection;
  readonly #options: StreamOptions;
  readonly #ended = Promise.withResolvers<StreamStatus>();
  #socket: WebSocket | null = null;
  #session: string | null = null;
  #received = 0;
  #input = new InputBuffer(0);
  #sent = 0;
  #inputEnded = false;
  #lastWords: StreamStatus | null = null;

  constructor(connection: Connection, options: StreamOptions) {
    this.#connection = connection;
    this.#options = options;
    // Of a session that can't begin, `run` throws the reason.
    this.#ended.promise.catch(() => undefined);
  }

  /** Runs the session to its end. Throws CallError where it can't begin, CommandError where it was lost. */
  async run(): Promise<StreamStatus> {
    this.#readInput();
    try {
      await this.#connect();
      return await this.#ended.promise;
    } catch (error) {
      endConnection(this.#socket);
      throw error;
    }
  }

  resize(rows: number, cols: number): void {
    this.#send(channels.resize, Buffer.from(JSON.stringify({ Width: cols, Height: rows })));
  }

  signal(signal: number): void {
    this.#send(channels.control, Buffer.from(JSON.stringify({ signal })));
  }

  /** Ends the session in the guest. */
  close(): void {
    this.#ended.resolve({ status: 'Failure', reason: 'Closed' });
    this.#socket?.close(normalClose);
  }

  #url(): URL {
    const url = socketUrl(this.#connection, this.#options.path);
    for (const [name, value] of this.#options.query) url.searchParams.append(name, value);
    if (this.#session === null) return url;
    url.search = '';
    if (this.#options.input !== null) url.searchParams.set('stdin', 'true');
    url.searchParams.set('session', this.#session);
    url.searchParams.set('after', String(this.#received));
    return url;
  }

  async #connect(): Promise<void> {
    this.#socket = await openSocket(this.#connection, this.#url(), {
      onMessage: (socket, data) => this.#take(socket, data),
      onClose: (socket, code) => this.#lose(socket, code),
      onError: (error) => this.#ended.reject(error),
    });
  }

  async #take(socket: WebSocket, data: Buffer): Promise<void> {
    const rest = data.subarray(1);
    if (data[0] === channels.stdout || data[0] === channels.stderr) {
      // Before it is printed: a connection that is lost meanwhile must not bring it again.
      this.#received += rest.length;
      await this.#options.onOutput(data[0], rest);
    } else if (data[0] === channels.control)
      this.#takeControl(socket, parseMessage(ControlState, rest, 'the state of a session'));
    else if (data[0] === channels.status) this.#lastWords = parseMessage(StreamStatus, rest, 'the status of a session');
  }

  #takeControl(socket: WebSocket, state: z.infer<typeof ControlState>): void {
    if (!('session' in state)) {
      this.#input.confirm(state.input);
    } else {
      const { session, input, output } = state;
      if (output !== this.#received || !this.#input.confirm(input))
        throw new CommandError(`The session goes on at another byte than here: ${output} for ${this.#received}`);
      this.#session = session;
      this.#socket = socket;
      this.#sent = this.#input.from;
      this.#options.onConnected?.(true);
    }
    this.#sendInput();
    if (this.#input.sizeBytes < inputWindowBytes && !this.#inputEnded) this.#options.input?.resume();
  }

  #send(channel: number, bytes: Uint8Array): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(channelMessage(channel, bytes));
  }

  /** As much as the guest has room for. */
  #sendInput(): void {
    if (this.#session === null || this.#socket?.readyState !== WebSocket.OPEN) return;
    for (const { at, bytes } of this.#input.read(this.#sent, this.#input.from + inputWindowBytes, payloadBytes)) {
      this.#send(channels.stdin, bytes);
      this.#sent = at + bytes.length;
    }
    if (this.#inputEnded && this.#sent === this.#input.end) this.#send(channels.close, Buffer.from([channels.stdin]));
  }

  /** From the session's beginning on, which may come with the answer that opens the connection. */
  #readInput(): void {
    const { input } = this.#options;
    if (input === null) return;
    input.pause();
    input.on('data', (chunk: Buffer) => {
      this.#input.push(chunk);
      this.#sendInput();
      if (this.#input.sizeBytes >= inputWindowBytes) input.pause();
    });
    input.once('end', () => {
      this.#inputEnded = true;
      this.#sendInput();
    });
  }

  async #lose(socket: WebSocket, code: number): Promise<void> {
    if (this.#lastWords !== null) return this.#ended.resolve(this.#lastWords);
    if (this.#session === null || code === normalClose)
      throw new CommandError(`The connection ended before the session did (WebSocket code ${code})`);
    if (this.#socket !== socket) return;
    this.#options.onConnected?.(false);
    await connectAgain(() => this.#connect());
  }
}
