import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { WebSocket } from 'ws';
import { hostCloseCodes } from '../../../model/streams/channels.ts';
import { ConsoleOrder, type ConsolePlace } from '../../../model/streams/console.ts';
import { endSocket, parseMessage, takeMessages } from '../../../model/streams/messages.ts';
import { messageOf } from '../../host/files.ts';
import { ConsoleLog } from './console-log.ts';

/** The log follows what the guest writes by some milliseconds; after this much silence it is looked at rarely. */
const quickPollMs = 10;
const slowPollMs = 250;
const quickForMs = 500;
/** virtlogd may be behind when a domain ends. */
const settledMs = 300;
/** What a client has not taken yet: nothing more is read for it. */
const unsentBytes = 256 * 1024;
/** Reports that the API does not read, while its client takes the keyboard over again and again. */
const unreadReportsBytes = 2 ** 20;
/** Typed faster than the guest reads. */
const untypedBytes = 64 * 1024;
const connectMs = 2000;

/** The serial port of one domain: what it writes is in its log, what is typed goes to QEMU's socket. */
class Port {
  readonly socket: Promise<Socket | null>;
  readonly viewers = new Set<Viewer>();
  writer: Viewer | null = null;
  changedMs = performance.now();
  ended = false;

  constructor(path: string, onEnd: () => void) {
    this.socket = new Promise((resolve) => {
      const socket = connect(path);
      socket.setTimeout(connectMs, () => resolve(null));
      let isConnected = false;
      socket.once('connect', () => {
        isConnected = true;
        socket.setTimeout(0);
        resolve(socket);
      });
      // A domain that was started before it had a socket can only be looked at.
      socket.on('error', () => resolve(null));
      // The log has it as well; a socket that is not read would hold up the guest.
      socket.on('data', () => {
        this.changedMs = performance.now();
      });
      socket.once('close', () => {
        this.ended = isConnected;
        this.changedMs = performance.now();
        if (isConnected) onEnd();
      });
    });
  }

  /** One client writes at a time: the one that has asked last. */
  async take(viewer: Viewer): Promise<void> {
    const socket = await this.socket;
    if (socket === null || this.ended) return viewer.report(false);
    const before = this.writer;
    this.writer = viewer;
    if (before !== viewer) before?.report(false);
    viewer.report(true);
  }

  async type(viewer: Viewer, bytes: Uint8Array): Promise<void> {
    const socket = await this.socket;
    if (socket === null || this.writer !== viewer || socket.writableLength > untypedBytes) return;
    socket.write(bytes);
  }

  leave(viewer: Viewer): void {
    this.viewers.delete(viewer);
    if (this.writer === viewer) this.writer = null;
  }
}

class Viewer {
  readonly #socket: WebSocket;
  readonly #log: ConsoleLog;
  readonly #port: Port;
  readonly #arrived: () => Promise<void>;

  constructor(socket: WebSocket, log: ConsoleLog, port: Port, arrived: () => Promise<void>) {
    this.#socket = socket;
    this.#log = log;
    this.#port = port;
    this.#arrived = arrived;
  }

  report(writing: boolean): void {
    this.#socket.send(JSON.stringify({ writing }));
    // A reason would not be read either.
    if (this.#socket.bufferedAmount > unreadReportsBytes) this.#socket.terminate();
  }

  /** Sends the log as it grows, to its end when the domain has ended. */
  async follow({ place, tailBytes }: FollowOrder): Promise<void> {
    let reported: ConsolePlace | null = null;
    if (place === null || !(await this.#log.has(place))) await this.#arrived();
    for (let next = place; this.#socket.readyState === this.#socket.OPEN; ) {
      const ended = this.#port.ended;
      const part = this.#socket.bufferedAmount > unsentBytes ? null : await this.#log.read(next, tailBytes);
      if (part === null) {
        const isSettled = performance.now() - this.#port.changedMs > settledMs;
        if (ended && isSettled && this.#socket.bufferedAmount === 0)
          return endSocket(this.#socket, hostCloseCodes.lost, 'the domain has ended');
        const quick = ended || performance.now() - this.#port.changedMs < quickForMs;
        await delay(quick ? quickPollMs : slowPollMs);
        continue;
      }
      const { from, bytes } = part;
      if (ended) this.#port.changedMs = performance.now();
      if (reported?.file !== from.file || reported.at !== from.at) this.#socket.send(JSON.stringify({ place: from }));
      this.#socket.send(bytes);
      reported = part.next;
      next = part.next;
    }
  }
}

type FollowOrder = ReturnType<typeof ConsoleOrder.parse>;

interface ConsolesOptions {
  host: string;
  pathsOf: (domain: string) => { console: string; consoleSocket: string };
  note: (about: { domain: string; why: string }) => void;
  /** Resolves when the history of a console is here, or is not to be had in a moment. */
  arrived: (domain: string) => Promise<void>;
  /** Told of what a listener throws. */
  onBug: (error: unknown) => void;
}

/** The consoles of this host's guests, each with any number of viewers, and one that writes. */
export class Consoles {
  readonly #options: ConsolesOptions;
  readonly #ports = new Map<string, Port>();

  constructor(options: ConsolesOptions) {
    this.#options = options;
  }

  /** Serves a connection of the API, of which nothing was read yet. */
  serve(domain: string, socket: WebSocket): void {
    const { host, pathsOf, note, arrived, onBug } = this.#options;
    const port = this.#portOf(domain);
    const viewer = new Viewer(socket, new ConsoleLog(pathsOf(domain).console, host), port, () => arrived(domain));
    port.viewers.add(viewer);
    let follows = false;
    takeMessages(socket, {
      binary: (bytes) => void port.type(viewer, bytes),
      text(bytes) {
        const order = parseMessage(ConsoleOrder, bytes, 'an order of a console');
        if (order.write) void port.take(viewer);
        if (follows) return;
        follows = true;
        viewer.follow(order).catch((error: unknown) => {
          note({ domain, why: messageOf(error) });
          endSocket(socket, hostCloseCodes.lost, messageOf(error));
        });
      },
      invalid: hostCloseCodes.invalid,
      onBug,
    });
    socket.once('close', () => {
      port.leave(viewer);
      if (port.viewers.size > 0) return;
      if (this.#ports.get(domain) === port) this.#ports.delete(domain);
      void port.socket.then((opened) => opened?.destroy());
    });
  }

  #portOf(domain: string): Port {
    const known = this.#ports.get(domain);
    if (known !== undefined && !known.ended) return known;
    const port = new Port(this.#options.pathsOf(domain).consoleSocket, () => {
      if (this.#ports.get(domain) === port) this.#ports.delete(domain);
    });
    this.#ports.set(domain, port);
    return port;
  }
}
