import { randomBytes } from 'node:crypto';
import type { Request, Response } from 'express';
import type { WebSocket } from 'ws';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { Logger } from '../../model/log.ts';
import { clientProtocols, messageBytes } from '../../model/streams/channels.ts';
import type { ConsolePlace } from '../../model/streams/console.ts';
import type { StreamRequest } from '../../model/streams/frames.ts';
import { closeCodes, endSocket } from '../../model/streams/messages.ts';
import type { Caller } from '../http/auth.ts';
import { acceptWebSocket, requireWebSocket } from '../http/upgrade.ts';
import type { WorkflowClient } from '../temporal.ts';
import { serveClient } from './client-socket.ts';
import { type CommandEnd, collectOutput } from './collect-output.ts';
import { ConsoleRelay } from './console-relay.ts';
import { ExpectedLinks } from './links.ts';
import { Relay } from './relay.ts';

/** One client's connection to a session of a guest. */
export interface SessionOrder {
  vm: { id: VmId; ownerId: string };
  /** What begins; null: a session goes on, whose output the client has up to `after`. */
  request: StreamRequest | null;
  session: string;
  after: number;
  /** Whether the client sends an input. */
  hasInput: boolean;
  /** Berth's program is needed also where the guest's agent could run it: it has to outlive a move. */
  needsProgram?: boolean;
  /** Before anything begins in the guest. */
  accept(): Promise<void>;
}

/** One client's connection to the console of a VM. */
export interface ConsoleRequest {
  vm: { id: VmId; ownerId: string };
  /** What the client has already; null: it begins with the last `tailBytes`. */
  place: ConsolePlace | null;
  tailBytes: number;
  /** It takes the keyboard over. */
  write: boolean;
  accept(): Promise<void>;
}

interface SessionsOptions {
  temporal: Pick<WorkflowClient, 'openStream'>;
  /** The base URL at which hosts reach this process; null: they know. */
  url: string | null;
  /** After so long without a byte a session, or a connection to a console, is ended. 0: never. */
  idleMs: number;
  log: Logger;
}

/** Of all clients of one process, and of one owner's. */
const sessionsOfProcess = 2000;
const sessionsOfOwner = 200;

/** How often a caller who waits for the end of a command hears of it. */
const aliveMs = 10_000;

export const newSession = (): string => randomBytes(16).toString('hex');

/** The clients of one API process that are connected to sessions of guests. */
export class Sessions {
  readonly links: ExpectedLinks;
  readonly #options: SessionsOptions;
  /** A mistake of Berth in a listener ends its connection alone. */
  readonly #onBug = (error: unknown): void =>
    this.#options.log.error({ err: error }, 'a message of a connection was not handled');
  readonly #owners = new Map<string, number>();
  readonly #sockets = new Set<WebSocket>();
  #size = 0;

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.links = new ExpectedLinks(options.url, this.#onBug);
  }

  get size(): number {
    return this.#size;
  }

  /** Answers the request to upgrade when the guest has begun or found the session; throws why it can't. */
  async open(req: Request, res: Response, caller: Caller, order: SessionOrder): Promise<void> {
    const { vm, request, session, after, hasInput } = order;
    const relay = this.#relay(order);
    const about = { vmId: vm.id, session, kind: request?.kind ?? 'resumed', after };
    const socket = await this.#admit(req, res, caller, relay, order.accept, about);
    serveClient(socket, relay, { session, onBug: this.#onBug });
    if (!hasInput) relay.endInput();
  }

  /**
   * Runs a command without an input to its end, for a caller who waits for its answer. It ends in the guest with that, and where it
   * prints more than `mostBytes`.
   */
  async run(res: Response, caller: Caller, order: SessionOrder, mostBytes: number): Promise<CommandEnd> {
    const relay = this.#relay(order);
    this.#enter(caller.ownerId);
    const gone = Promise.withResolvers<never>();
    gone.promise.catch(() => undefined);
    const abandon = () => gone.reject(new BerthError('unavailable', 'The caller has gone'));
    res.once('close', abandon);
    res.once('revoked', abandon);
    // Neither the server nor the client takes the silence for a lost connection.
    const alive = setInterval(() => res.writeProcessing(), aliveMs);
    try {
      await order.accept();
      await Promise.race([relay.connect(), gone.promise]);
      return await collectOutput(relay, mostBytes, gone.promise);
    } finally {
      clearInterval(alive);
      res.off('close', abandon);
      res.off('revoked', abandon);
      relay.close(true);
      this.#leave(caller.ownerId);
    }
  }

  /** Connects a client with the console of a VM, as `open` does with a session. */
  async openConsole(req: Request, res: Response, caller: Caller, order: ConsoleRequest): Promise<void> {
    const { vm, place, tailBytes, write } = order;
    const needs = { owner: vm.ownerId, needsProgram: false, console: true };
    const reach = () => this.links.connect((link) => this.#options.temporal.openStream(vm.id, { ...link, ...needs }));
    const relay = new ConsoleRelay({ place, tailBytes, write, idleMs: this.#options.idleMs, reach, onBug: this.#onBug });
    const about = { vmId: vm.id, kind: 'console', write };
    relay.serve(await this.#admit(req, res, caller, relay, order.accept, about));
  }

  /** Upgrades the request once the VM's host has connected for it. */
  async #admit(
    req: Request,
    res: Response,
    caller: Caller,
    relay: { connect(): Promise<void>; close(ends: boolean): void },
    accept: () => Promise<void>,
    about: object,
  ): Promise<WebSocket> {
    const protocol = requireWebSocket(req, clientProtocols);
    this.#enter(caller.ownerId);
    res.once('close', () => this.#leave(caller.ownerId));
    const abandon = () => relay.close(true);
    res.once('close', abandon);
    // A command ends with the right to run it.
    res.once('revoked', abandon);
    await accept();
    await relay.connect();
    const socket = await acceptWebSocket(req, res, protocol, messageBytes);
    res.off('close', abandon);
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    this.#options.log.info({ ...about, keyId: caller.keyId }, 'a client is connected to a guest');
    return socket;
  }

  /** Has every client come again, at another process or at the next one here. */
  close(): void {
    for (const socket of this.#sockets) endSocket(socket, closeCodes.serviceRestart, 'the API is being restarted');
    this.links.close();
  }

  #relay({ vm, request, session, after, hasInput, needsProgram: outlivesMoves = false }: SessionOrder): Relay {
    let needsProgram = outlivesMoves || request === null || request.kind !== 'pipes' || hasInput;
    return new Relay({
      request,
      after,
      idleMs: this.#options.idleMs,
      reach: (events) => {
        const order = { owner: vm.ownerId, needsProgram };
        // Only the program keeps a session for another connection.
        needsProgram = true;
        return this.links.reach(session, (link) => this.#options.temporal.openStream(vm.id, { ...link, ...order }), events);
      },
    });
  }

  #enter(owner: string): void {
    const own = this.#owners.get(owner) ?? 0;
    if (own >= sessionsOfOwner)
      throw new BerthError(
        'rate-limited',
        `This owner has ${own} sessions at the same time, of at most ${sessionsOfOwner}; end some`,
      );
    if (this.#size >= sessionsOfProcess) throw new BerthError('unavailable', 'Too many sessions are open; try again soon');
    this.#size += 1;
    this.#owners.set(owner, own + 1);
  }

  #leave(owner: string): void {
    this.#size -= 1;
    const left = (this.#owners.get(owner) ?? 1) - 1;
    if (left === 0) this.#owners.delete(owner);
    else this.#owners.set(owner, left);
  }
}
