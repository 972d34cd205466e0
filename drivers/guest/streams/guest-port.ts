import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { BerthError } from '../../../model/errors.ts';
import { encodeHostFrame, sessionOf } from '../../../model/streams/frames.ts';
import { encodePortFrame, PortReader } from './port-framing.ts';

/** The port's name in the guest, where berth-stream waits at it (infra/guest/stream.c). */
export const streamPortName = 'org.berth.stream.0';

/** What a guest may send in a tenth of a second: 40 MiB/s. More waits in its own memory. */
const sliceMs = 100;
const sliceBytes = 4 * 2 ** 20;
/** A guest that doesn't read what its clients send: each has a window, and all of them have no more than this. */
const unsentBytes = 8 * 2 ** 20;
/** Frames that are none, after which a guest is not listened to any more. One or two come with each new connection. */
const damagedFrames = 100;
const greetingPauseMs = 250;

/** One client's end of a guest's port. */
export interface PortUser {
  onBody(body: Buffer): void;
  /** The guest, or its QEMU, is gone: it may have moved. */
  onLost(why: string): void;
  /** Another client of the same session has taken its place. */
  onReplaced(): void;
}

export interface GuestPort {
  /** The session's frames go to this user from now on, and not to an earlier one. */
  use(session: string, user: PortUser): void;
  /** The session is nobody's any more; nothing happens where another user has it by now. */
  detach(session: string, user: PortUser): void;
  send(body: Uint8Array): void;
  readonly users: number;
  readonly lost: boolean;
  close(): void;
}

interface Greeting {
  deadlineMs: number;
  /** Asked while there is no answer: false where no program in the guest has the port open. */
  isOpen: () => Promise<boolean>;
}

/**
 * Connects to QEMU's end of a guest's port, and greets the program there. `guest-program-missing` where the port stays closed,
 * `host-busy` where the program doesn't answer in time, `conflict` where there is no QEMU.
 */
export async function openGuestPort(path: string, greeting: Greeting): Promise<GuestPort> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
  } catch (error) {
    throw new BerthError('conflict', `connecting to ${path}: ${error instanceof Error ? error.message : error}`);
  }
  const port = new Port(socket);
  try {
    await port.greet(greeting);
  } catch (error) {
    port.close();
    throw error;
  }
  return port;
}

class Port implements GuestPort {
  readonly #socket: Socket;
  readonly #reader = new PortReader();
  readonly #users = new Map<string, PortUser>();
  #nonce: Buffer | null = null;
  #isGreeted = false;
  #greeted = Promise.withResolvers<void>();
  #slice = { untilMs: 0, bytes: 0 };
  lost = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#greeted.promise.catch(() => undefined);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => this.#lose(error.message));
    socket.on('close', () => this.#lose('its QEMU closed the port'));
  }

  get users(): number {
    return this.#users.size;
  }

  /** The answer to the greeting shows that the guest has forgotten the connection before, and sends nothing of it any more. */
  async greet({ deadlineMs, isOpen }: Greeting): Promise<void> {
    const untilMs = performance.now() + deadlineMs;
    let closed = 0;
    this.#nonce = randomBytes(8);
    const hello = Buffer.concat([Buffer.from('H'), this.#nonce]);
    for (;;) {
      this.#socket.write(encodePortFrame(hello));
      const answered = await Promise.race([this.#greeted.promise.then(() => true), delay(greetingPauseMs, false)]);
      if (answered) return;
      closed = (await isOpen()) ? 0 : closed + 1;
      // A guest that boots, or has just arrived here, opens it in a moment.
      if (closed >= 4) throw new BerthError('guest-program-missing', 'No program of Berth runs in this guest');
      if (performance.now() > untilMs)
        throw new BerthError('host-busy', `The program of Berth in the guest did not answer in ${deadlineMs} ms`);
    }
  }

  use(session: string, user: PortUser): void {
    const before = this.#users.get(session);
    this.#users.set(session, user);
    if (before !== undefined && before !== user) before.onReplaced();
    if (this.lost) user.onLost('the port is closed');
  }

  detach(session: string, user: PortUser): void {
    if (this.#users.get(session) !== user) return;
    this.#users.delete(session);
    this.send(encodeHostFrame(session, { type: 'detach' }));
  }

  send(body: Uint8Array): void {
    if (this.lost) return;
    this.#socket.write(encodePortFrame(body));
    if (this.#socket.writableLength > unsentBytes) this.#lose('the guest reads nothing');
  }

  close(): void {
    this.#lose('the host closed the port');
  }

  #take(chunk: Buffer): void {
    this.#slow(chunk.length);
    for (const body of this.#reader.push(chunk)) {
      if (this.lost) return;
      if (body[0] === 'h'.charCodeAt(0)) {
        this.#takeGreeting(body);
        continue;
      }
      const session = sessionOf(body);
      if (session !== null) this.#users.get(session)?.onBody(body);
    }
    if (this.#reader.damaged > damagedFrames) this.#lose('the guest sends what is no frame');
  }

  /** An answer that is not to the last greeting is late, or, once that was answered, of a program that has begun anew. */
  #takeGreeting(body: Buffer): void {
    if (this.#nonce !== null && body.length === 10 && body.subarray(1, 9).equals(this.#nonce)) {
      this.#isGreeted = true;
      this.#greeted.resolve();
    } else if (this.#isGreeted) this.#lose('its program has begun anew');
  }

  /** Leaves what a guest sends beyond its rate in the kernel, and so with the guest. */
  #slow(bytes: number): void {
    const nowMs = performance.now();
    if (nowMs >= this.#slice.untilMs) this.#slice = { untilMs: nowMs + sliceMs, bytes: 0 };
    this.#slice.bytes += bytes;
    if (this.#slice.bytes < sliceBytes) return;
    this.#socket.pause();
    setTimeout(() => this.#socket.resume(), this.#slice.untilMs - nowMs);
  }

  #lose(why: string): void {
    if (this.lost) return;
    this.lost = true;
    this.#socket.destroy();
    this.#greeted.reject(new BerthError('conflict', `The guest's port: ${why}`));
    const users = [...this.#users.values()];
    this.#users.clear();
    for (const user of users) user.onLost(why);
  }
}
