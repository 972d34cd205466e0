import type { WebSocket } from 'ws';
import type { ErrorCode } from '../../model/errors.ts';
import { berthProtocol, channelMessage, channels, hostCloseCodes, jsonMessage } from '../../model/streams/channels.ts';
import { ConsoleControl, type ConsolePlace, ConsoleReport, placeText } from '../../model/streams/console.ts';
import { inputWindowBytes } from '../../model/streams/frames.ts';
import { InputQueue } from '../../model/streams/input-queue.ts';
import { closeCodes, endSocket, InvalidMessage, parseMessage, takeMessages } from '../../model/streams/messages.ts';
import { IdleTimer } from './idle-timer.ts';
import { keepReaching, reachDespiteMove } from './keep-reaching.ts';

interface ConsoleRelayOptions {
  place: ConsolePlace | null;
  tailBytes: number;
  write: boolean;
  /** After so long without a byte from either end the connection is ended. 0: never. */
  idleMs: number;
  /** Has the VM's host connect, wherever it is by now. Nothing of the connection is read yet. */
  reach(): Promise<WebSocket>;
  /** Told of what a listener throws. */
  onBug(error: unknown): void;
}

/** What the client has not taken: the host sends nothing more meanwhile. */
const unsentBytes = 256 * 1024;
const drainPollMs = 20;
/** The VM may be back in a moment: it moves, is rebooted or suspended. */
const final: ReadonlySet<ErrorCode> = new Set(['not-found', 'forbidden', 'bad-request']);

/**
 * Passes a VM's console on between a client and the VM's host. It knows which bytes the client has by their place in a host's log, so
 * that after a lost connection they go on there, also at another host, where that log is a part of the console's history.
 */
export class ConsoleRelay {
  readonly #options: ConsoleRelayOptions;
  #place: ConsolePlace | null;
  #writes: boolean;
  #link: WebSocket | null = null;
  #closed = false;
  readonly #idle: IdleTimer;
  /** Typed while there is no connection to the host. */
  readonly #queue = new InputQueue();

  constructor(options: ConsoleRelayOptions) {
    this.#options = options;
    this.#place = options.place;
    this.#writes = options.write;
    this.#idle = new IdleTimer(options.idleMs);
  }

  /** Throws why the console can't be had. */
  async connect(): Promise<void> {
    const attempt = async (): Promise<void> => {
      this.#link = await this.#options.reach();
    };
    await reachDespiteMove(attempt, { isOver: () => this.#closed });
  }

  serve(client: WebSocket): void {
    takeMessages(client, { binary: (bytes) => this.#takeFromClient(bytes), onBug: this.#options.onBug });
    client.once('close', () => this.close());
    this.#idle.start(() => endSocket(client, closeCodes.normal, this.#idle.reason));
    if (this.#link !== null) this.#use(this.#link, client);
    client.resume();
  }

  close(): void {
    this.#closed = true;
    this.#idle.stop();
    this.#link?.close(closeCodes.normal);
  }

  #use(link: WebSocket, client: WebSocket): void {
    this.#link = link;
    let isInvalid = false;
    takeMessages(link, {
      binary: (bytes) => this.#pass(link, client, bytes),
      text: (bytes) => {
        try {
          this.#takeReport(link, client, bytes);
        } catch (error) {
          // Connected again it would say the same.
          isInvalid = true;
          throw error;
        }
      },
      invalid: hostCloseCodes.invalid,
      onBug: this.#options.onBug,
    });
    link.once('close', () => {
      if (this.#link === link) this.#link = null;
      if (isInvalid) endSocket(client, closeCodes.serverError, "the VM's host sends what is no console");
      else if (!this.#closed) this.#reconnect(client);
    });
    link.send(JSON.stringify({ place: this.#place, tailBytes: this.#options.tailBytes, write: this.#writes }));
    for (const bytes of this.#queue.take()) link.send(bytes);
    link.resume();
  }

  #pass(link: WebSocket, client: WebSocket, bytes: Buffer): void {
    this.#idle.touch();
    if (this.#place !== null) this.#place = { ...this.#place, at: this.#place.at + bytes.length };
    client.send(channelMessage(channels.stdout, bytes));
    if (this.#place !== null) this.#report(client, { place: placeText(this.#place) });
    this.#holdBack(link, client);
  }

  /** Reads nothing more of the host while the client reads nothing. */
  #holdBack(link: WebSocket, client: WebSocket): void {
    if (client.bufferedAmount <= unsentBytes || link.isPaused) return;
    link.pause();
    const timer = setInterval(() => {
      if (client.bufferedAmount > unsentBytes && client.readyState === client.OPEN) return;
      clearInterval(timer);
      if (link.readyState === link.OPEN) link.resume();
    }, drainPollMs);
  }

  #takeReport(link: WebSocket, client: WebSocket, bytes: Buffer): void {
    const report = parseMessage(ConsoleReport, bytes, 'a report of a console');
    if ('place' in report) this.#place = report.place;
    else {
      // One that was taken over does not take the keyboard back when its connection is made again.
      this.#writes = report.writing;
      this.#report(client, report);
      this.#holdBack(link, client);
    }
  }

  #report(client: WebSocket, state: object): void {
    if (client.protocol !== berthProtocol) return;
    client.send(jsonMessage(channels.control, state));
  }

  #takeFromClient(bytes: Buffer): void {
    const [channel, rest] = [bytes[0], bytes.subarray(1)];
    this.#idle.touch();
    if (channel === channels.control) {
      parseMessage(ConsoleControl, rest, 'a control message of a console');
      this.#writes = true;
      this.#send(JSON.stringify({ place: this.#place, tailBytes: 0, write: true }));
    } else if (channel === channels.stdin) this.#type(rest);
    else if (channel !== channels.resize && channel !== channels.close && channel !== undefined)
      throw new InvalidMessage('no such channel');
  }

  /**
   * What is typed while the VM moves, or its host's worker is restarted, is sent when there is a connection again, up to as much as
   * a host keeps for its guest. What was on its way when the connection was lost may be lost with it: sent again, it might be
   * typed twice.
   */
  #type(bytes: Buffer): void {
    if (this.#link !== null) this.#send(bytes);
    else if (this.#writes) this.#queue.put(bytes);
  }

  /** What comes faster than the host takes it is dropped, as a serial port does. */
  #send(message: Buffer | string): void {
    if (this.#link !== null && this.#link.bufferedAmount < inputWindowBytes) this.#link.send(message);
  }

  #reconnect(client: WebSocket): void {
    const attempt = async (): Promise<void> => {
      const link = await this.#options.reach();
      if (this.#closed) link.close(closeCodes.normal);
      else this.#use(link, client);
    };
    const passes = (code: ErrorCode): boolean => !final.has(code);
    keepReaching(attempt, { isOver: () => this.#closed, passes }).catch((error: unknown) => {
      endSocket(client, closeCodes.serverError, error instanceof Error ? error.message : String(error));
    });
  }
}
