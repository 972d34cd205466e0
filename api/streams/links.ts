import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { WebSocket } from 'ws';
import { BerthError } from '../../model/errors.ts';
import { hostCloseCodes } from '../../model/streams/channels.ts';
import { encodeHostFrame, parseGuestFrame, sessionOf } from '../../model/streams/frames.ts';
import { closeCodes, endSocket, InvalidMessage, takeMessages } from '../../model/streams/messages.ts';
import type { HostLink, LinkEvents } from './relay.ts';

/** What a host worker is told, so that it connects to this process. */
export interface LinkOrder {
  id: string;
  url: string | null;
  token: string;
}

/** How long a host has: for its step, for the greeting of the guest's program, and for connecting. */
const linkDeadlineMs = 60_000;

const digestOf = (token: string): Buffer => createHash('sha256').update(token).digest();

/**
 * The connections that this process expects from hosts. Each has a token that is taken once: it reaches the host through Temporal,
 * so that no host needs the right to connect to any other session.
 */
export class ExpectedLinks {
  readonly #url: string | null;
  readonly #expected = new Map<string, { digest: Buffer; take: (socket: WebSocket) => void }>();
  readonly #open = new Set<WebSocket>();
  readonly #onBug: (error: unknown) => void;

  /** @param url the base URL at which hosts reach this process; null: they know */
  constructor(url: string | null, onBug: (error: unknown) => void) {
    this.#url = url;
    this.#onBug = onBug;
  }

  /** Connections of hosts that are open now. */
  get size(): number {
    return this.#open.size;
  }

  /** Has a host connect for a session. */
  async reach(session: string, order: (link: LinkOrder) => Promise<void>, events: LinkEvents): Promise<HostLink> {
    return this.#bind(await this.connect(order), session, events);
  }

  /**
   * Has a host connect; nothing of the connection is read yet.
   * @param order gives the order to the host; it rejects where the host can't
   */
  async connect(order: (link: LinkOrder) => Promise<void>): Promise<WebSocket> {
    const [id, token] = [randomBytes(12).toString('hex'), randomBytes(24).toString('base64url')];
    const arrival = Promise.withResolvers<WebSocket>();
    this.#expected.set(id, { digest: digestOf(token), take: arrival.resolve });
    const timer = setTimeout(
      () => arrival.reject(new BerthError('host-unavailable', 'The host of the VM did not connect in time')),
      linkDeadlineMs,
    );
    order({ id, url: this.#url, token }).catch(arrival.reject);
    try {
      const socket = await arrival.promise;
      this.#open.add(socket);
      socket.once('close', () => this.#open.delete(socket));
      return socket;
    } finally {
      clearTimeout(timer);
      this.#expected.delete(id);
    }
  }

  /** Takes the token of an expected connection; `forbidden` for any other. */
  admit(id: string, token: string): (socket: WebSocket) => void {
    const expected = this.#expected.get(id);
    if (expected === undefined || !timingSafeEqual(expected.digest, digestOf(token)))
      throw new BerthError('forbidden', 'No connection of a host is expected here, or it was made already');
    this.#expected.delete(id);
    return expected.take;
  }

  /** Ends all: their hosts detach the sessions, and clients come again at another process. */
  close(): void {
    for (const socket of this.#open) endSocket(socket, closeCodes.goingAway, 'the API is being restarted');
  }

  #bind(socket: WebSocket, session: string, events: LinkEvents): HostLink {
    takeMessages(socket, {
      binary(body) {
        const frame = sessionOf(body) === session ? parseGuestFrame(body) : null;
        if (frame === null) throw new InvalidMessage('expected a frame of the session');
        events.onFrame(frame);
      },
      invalid: hostCloseCodes.invalid,
      onBug: this.#onBug,
    });
    socket.once('close', (code) => {
      if (code === hostCloseCodes.replaced) events.onClose('replaced');
      else events.onClose(code === hostCloseCodes.invalid ? 'invalid' : 'lost');
    });
    socket.resume();
    return {
      send: (frame) => socket.send(encodeHostFrame(session, frame)),
      close: () => socket.close(),
      get unsentBytes() {
        return socket.bufferedAmount;
      },
    };
  }
}
