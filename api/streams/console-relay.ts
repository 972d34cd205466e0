import type { WebSocket } from 'ws';
import type { ErrorCode } from '../../model/errors.ts';
import { berthProtocol, channelMessage, channels } from '../../model/streams/channels.ts';
import { ConsoleControl, type ConsolePlace, ConsoleReport, placeText } from '../../model/streams/console.ts';
import { inputWindowBytes } from '../../model/streams/frames.ts';
import { keepReaching } from './keep-reaching.ts';
import { closeCodes, jsonMessage, parseMessage } from './messages.ts';

interface ConsoleRelayOptions {
  place: ConsolePlace | null;
  tailBytes: number;
  write: boolean;
  /** Has the VM's host connect, wherever it is by now. Nothing of the connection is read yet. */
  reach(): Promise<WebSocket>;
}

/** What the client has not taken: the host sends nothing more meanwhile. */
const unsentBytes = 256 * 1024;
const drainPollMs = 20;
/** The VM may be back in a moment: it moves, is rebooted or suspended. */
const final: ReadonlySet<ErrorCode> = new Set(['not-found', 'forbidden', 'bad-request']);

/**
 * Passes a VM's console on between a client and the VM's host. It knows which bytes the client has by their place in the host's log, so
 * that after a lost connection they go on there; at another host, with what the guest has written there.
 */
export class ConsoleRelay {
  readonly #options: ConsoleRelayOptions;
  #place: ConsolePlace | null;
  #writes: boolean;
  #link: WebSocket | null = null;
  #closed = false;

  constructor(options: ConsoleRelayOptions) {
    this.#options = options;
    this.#place = options.place;
    this.#writes = options.write;
  }

  /** Throws why the console can't be had. */
  async connect(): Promise<void> {
    this.#link = await this.#options.reach();
  }

  serve(client: WebSocket): void {
    client.on('message', (data, isBinary) => this.#takeFromClient(client, data as Buffer, isBinary));
    client.on('error', () => undefined);
    client.once('close', () => this.close());
    if (this.#link !== null) this.#use(this.#link, client);
    client.resume();
  }

  close(): void {
    this.#closed = true;
    this.#link?.close(closeCodes.normal);
  }

  #use(link: WebSocket, client: WebSocket): void {
    this.#link = link;
    link.on('message', (data, isBinary) => {
      if (isBinary) this.#pass(link, client, data as Buffer);
      else this.#takeReport(client, data as Buffer);
    });
    link.on('error', () => undefined);
    link.once('close', () => {
      if (this.#link === link) this.#link = null;
      if (!this.#closed) this.#reconnect(client);
    });
    link.send(JSON.stringify({ place: this.#place, tailBytes: this.#options.tailBytes, write: this.#writes }));
    link.resume();
  }

  #pass(link: WebSocket, client: WebSocket, bytes: Buffer): void {
    if (this.#place !== null) this.#place = { ...this.#place, at: this.#place.at + bytes.length };
    client.send(channelMessage(channels.stdout, bytes));
    if (this.#place !== null) this.#report(client, { place: placeText(this.#place) });
    if (client.bufferedAmount <= unsentBytes) return;
    link.pause();
    const timer = setInterval(() => {
      if (client.bufferedAmount > unsentBytes && client.readyState === client.OPEN) return;
      clearInterval(timer);
      if (link.readyState === link.OPEN) link.resume();
    }, drainPollMs);
  }

  #takeReport(client: WebSocket, bytes: Buffer): void {
    const report = ConsoleReport.parse(JSON.parse(bytes.toString()));
    if ('place' in report) this.#place = report.place;
    else {
      // One that was taken over does not take the keyboard back when its connection is made again.
      this.#writes = report.writing;
      this.#report(client, report);
    }
  }

  #report(client: WebSocket, state: object): void {
    if (client.protocol !== berthProtocol) return;
    client.send(jsonMessage(channels.control, state));
  }

  #takeFromClient(client: WebSocket, bytes: Buffer, isBinary: boolean): void {
    const [channel, rest] = [bytes[0], bytes.subarray(1)];
    if (!isBinary) client.close(closeCodes.protocolError, 'messages are binary');
    else if (channel === channels.stdin) {
      if (this.#link !== null && this.#link.bufferedAmount < inputWindowBytes) this.#link.send(rest);
    } else if (channel === channels.control && parseMessage(ConsoleControl, rest) !== null) {
      this.#writes = true;
      this.#link?.send(JSON.stringify({ place: this.#place, tailBytes: 0, write: true }));
    } else if (channel !== channels.resize && channel !== channels.close)
      client.close(closeCodes.protocolError, 'no such channel');
  }

  #reconnect(client: WebSocket): void {
    const attempt = async (): Promise<void> => {
      const link = await this.#options.reach();
      if (this.#closed) link.close(closeCodes.normal);
      else this.#use(link, client);
    };
    const passes = (code: ErrorCode): boolean => !final.has(code);
    keepReaching(attempt, { isOver: () => this.#closed, passes }).catch((error: unknown) => {
      client.close(closeCodes.serverError, (error instanceof Error ? error.message : String(error)).slice(0, 100));
    });
  }
}
