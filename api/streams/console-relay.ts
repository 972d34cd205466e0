import { setTimeout as delay } from 'node:timers/promises';
import type { WebSocket } from 'ws';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { berthProtocol, channels } from '../../model/streams/channels.ts';
import { ConsoleControl, type ConsolePlace, ConsoleReport, placeText } from '../../model/streams/console.ts';
import { forgottenMs, inputWindowBytes } from '../../model/streams/frames.ts';

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
const backoff = { initialMs: 50, maxMs: 1000 };
const closed = { normal: 1000, protocolError: 1002, serverError: 1011 } as const;
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
    this.#link?.close(closed.normal);
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
    client.send(Buffer.concat([Buffer.from([channels.stdout]), bytes]));
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
    client.send(Buffer.concat([Buffer.from([channels.control]), Buffer.from(JSON.stringify(state))]));
  }

  #takeFromClient(client: WebSocket, bytes: Buffer, isBinary: boolean): void {
    const [channel, rest] = [bytes[0], bytes.subarray(1)];
    if (!isBinary) client.close(closed.protocolError, 'messages are binary');
    else if (channel === channels.stdin) {
      if (this.#link !== null && this.#link.bufferedAmount < inputWindowBytes) this.#link.send(rest);
    } else if (channel === channels.control && ConsoleControl.safeParse(parseJson(rest)).success) {
      this.#writes = true;
      this.#link?.send(JSON.stringify({ place: this.#place, tailBytes: 0, write: true }));
    } else if (channel !== channels.resize && channel !== channels.close) client.close(closed.protocolError, 'no such channel');
  }

  #reconnect(client: WebSocket): void {
    this.#keepReaching(client).catch((error: unknown) => {
      client.close(closed.serverError, (error instanceof Error ? error.message : String(error)).slice(0, 100));
    });
  }

  async #keepReaching(client: WebSocket): Promise<void> {
    const untilMs = performance.now() + forgottenMs;
    for (let pauseMs = backoff.initialMs; !this.#closed; pauseMs = Math.min(backoff.maxMs, pauseMs * 2)) {
      try {
        const link = await this.#options.reach();
        if (!this.#closed) return this.#use(link, client);
        link.close(closed.normal);
      } catch (error) {
        if (!(error instanceof BerthError) || final.has(error.code) || performance.now() > untilMs) throw error;
      }
      await delay(pauseMs);
    }
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
