import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { exitStatus, type StreamStatus } from '../../model/streams/channels.ts';
import {
  type GuestFrame,
  type HostFrame,
  inputWindowBytes,
  payloadBytes,
  type Refusal,
  type StreamRequest,
  type TerminalSize,
} from '../../model/streams/frames.ts';
import { InputBuffer } from '../../model/streams/input-buffer.ts';
import { IdleTimer } from './idle-timer.ts';
import { keepReaching, reachDespiteMove } from './keep-reaching.ts';

/** A connection that a host worker has opened, to one session of a guest. */
export interface HostLink {
  send(frame: HostFrame): void;
  close(): void;
  /** What was sent and is still here. */
  readonly unsentBytes: number;
}

export interface LinkEvents {
  onFrame(frame: GuestFrame): void;
  /** `replaced`: another client has the session. */
  onClose(why: 'lost' | 'replaced' | 'invalid'): void;
}

/** The client's end, as a relay uses it. */
export interface ClientEnd {
  /** `confirm` is called with `end`, the offset after these bytes, or a later one, when the client has them. */
  output(channel: 1 | 2, bytes: Uint8Array, end: number): void;
  /** Which session it is, and where its input and its output go on. */
  begin(state: { input: number; output: number }): void;
  inputRead(at: number): void;
  /** Its last word. `confirmed` is called when the client has it. */
  end(status: StreamStatus, confirmed: () => void): void;
}

interface RelayOptions {
  /** A session that begins; null: one that goes on. */
  request: StreamRequest | null;
  /** The output that the client has already. */
  after: number;
  /** Has the VM's host connect, wherever it is by now. */
  reach(events: LinkEvents): Promise<HostLink>;
  /** After so long without a byte, a size or a signal the session is ended. 0: never. */
  idleMs: number;
  /** Of the attempts after a connection was lost. */
  backoff?: { initialMs: number; maxMs: number };
}

/** The last signals are kept until the guest has them. */
const signalsKept = 64;
const attachDeadlineMs = 20_000;
const earlyFrames = 4096;

/** A host or a move may need another moment; any other error is final. */
const passing: ReadonlySet<ErrorCode> = new Set([
  'conflict',
  'host-busy',
  'host-unavailable',
  'hypervisor',
  'internal',
  'rate-limited',
  'stale-generation',
  'unavailable',
  'vm-lost',
  'vm-moved',
]);

const refusalErrors: Record<Refusal, { code: ErrorCode; message: string }> = {
  unknown: { code: 'not-found', message: 'The guest has no such session: it has ended, or the guest was booted again' },
  tooMany: { code: 'rate-limited', message: 'The guest has as many sessions as it can; end some' },
  lostOutput: { code: 'conflict', message: 'The output after that offset is not kept any more' },
  notStarted: {
    code: 'command-not-started',
    message: 'The guest could not start it, or nothing accepts connections at that port',
  },
  badRequest: { code: 'bad-request', message: 'The guest does not understand this request' },
};

/**
 * Passes a session on between a client and its guest. Both directions are counted: when the connection to the guest is lost,
 * because the VM has moved or a worker was restarted, the relay has the VM's host connect again, and goes on at the byte where it
 * was. What the client has not confirmed stays in the guest, and what the guest has not read stays here.
 */
export class Relay {
  readonly #options: RelayOptions;
  #client: ClientEnd | null = null;
  #link: HostLink | null = null;
  /** The next byte of output that the client gets, and the first that it has not confirmed. */
  #passed: number;
  #confirmed: number;
  #input: InputBuffer | null = null;
  #sent = 0;
  #inputEnd: number | null = null;
  #size: TerminalSize | null = null;
  #signals: { number: number; signal: number }[] = [];
  #lastSignal = 0;
  #ended: StreamStatus | null = null;
  #closed = false;
  readonly #idle: IdleTimer;

  constructor(options: RelayOptions) {
    this.#options = options;
    this.#passed = options.after;
    this.#confirmed = options.after;
    this.#idle = new IdleTimer(options.idleMs);
  }

  /** Begins the session, or finds it again. Throws why that can't be. */
  async connect(): Promise<void> {
    const { request, after, backoff } = this.#options;
    // A session that is there already is attached to, so that it may be opened again.
    const attach = () => this.#attach(request === null ? { type: 'attach', after } : { type: 'open', request });
    await reachDespiteMove(attach, { isOver: () => this.#closed, backoff });
  }

  serve(client: ClientEnd): void {
    this.#client = client;
    this.#idle.start(() => this.#endIdle());
    client.begin({ input: this.#input?.from ?? 0, output: this.#passed });
    for (const frame of this.#early.splice(0)) this.#take(frame);
    if (this.#link === null && this.#ended === null) this.#reconnect();
  }

  /** Bytes of the input that the guest has not read yet. */
  get unreadBytes(): number {
    return this.#input?.sizeBytes ?? 0;
  }

  /** Bytes for the guest that its host has not taken. */
  get unsentBytes(): number {
    return this.#link?.unsentBytes ?? 0;
  }

  input(bytes: Uint8Array): void {
    if (this.#input === null || this.#inputEnd !== null) return;
    this.#idle.touch();
    this.#input.push(bytes);
    this.#sendInput();
  }

  endInput(): void {
    if (this.#input === null || this.#inputEnd !== null) return;
    this.#idle.touch();
    this.#inputEnd = this.#input.end;
    this.#link?.send({ type: 'inputEnd', at: this.#inputEnd });
  }

  resize(size: TerminalSize): void {
    this.#idle.touch();
    this.#size = size;
    this.#link?.send({ type: 'resize', size });
  }

  signal(signal: number): void {
    this.#idle.touch();
    this.#lastSignal += 1;
    this.#signals = [...this.#signals.slice(1 - signalsKept), { number: this.#lastSignal, signal }];
    this.#link?.send({ type: 'signal', number: this.#lastSignal, signal });
  }

  /** The client has the output up to there. */
  confirm(at: number): void {
    if (at <= this.#confirmed || at > this.#passed) return;
    this.#confirmed = at;
    this.#link?.send({ type: 'confirm', at });
  }

  /** The client is gone. `ends`: the session ends with it; otherwise it waits in the guest for another connection. */
  close(ends: boolean): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#idle.stop();
    this.#link?.send({ type: ends ? 'close' : 'detach' });
    this.#link?.close();
    this.#link = null;
  }

  /** Frames that arrive before there is a client. */
  readonly #early: GuestFrame[] = [];

  async #attach(first: Extract<HostFrame, { type: 'open' | 'attach' }>): Promise<void> {
    const attached = Promise.withResolvers<void>();
    let link: HostLink | null = null;
    let settled = false;
    const events: LinkEvents = {
      onFrame: (frame) => {
        if (settled) return this.#take(frame);
        if (frame.type === 'refused') {
          const { code, message } = refusalErrors[frame.why];
          attached.reject(new BerthError(code, message));
        } else if (frame.type === 'attached' && link !== null) {
          settled = true;
          if (this.#resume(link, frame)) attached.resolve();
          else attached.reject(new BerthError('guest-invalid', 'The guest tells of an input that it was never sent'));
        }
      },
      onClose: (why) => {
        attached.reject(new BerthError('unavailable', 'The connection to the guest was lost'));
        if (link === null || this.#link !== link) return;
        this.#link = null;
        if (why === 'lost') this.#reconnect();
        else this.#finish({ status: 'Failure', reason: 'Replaced', message: 'Another connection has taken the session over' });
      },
    };
    link = await this.#options.reach(events);
    link.send(first);
    const timer = setTimeout(() => attached.reject(new BerthError('host-busy', 'The guest does not answer')), attachDeadlineMs);
    try {
      await attached.promise;
      // The client may have gone meanwhile.
      if (this.#closed) link.close();
    } catch (error) {
      link.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** What the guest has not read is sent again, what it has read never. */
  #resume(link: HostLink, { input, signals }: Extract<GuestFrame, { type: 'attached' }>): boolean {
    this.#input ??= new InputBuffer(input);
    if (input < this.#input.from || !this.#input.confirm(input)) return false;
    if (this.#lastSignal === 0) this.#lastSignal = signals;
    this.#link = link;
    this.#sent = this.#input.from;
    this.#client?.inputRead(input);
    this.#sendInput();
    if (this.#inputEnd !== null) link.send({ type: 'inputEnd', at: this.#inputEnd });
    if (this.#size !== null) link.send({ type: 'resize', size: this.#size });
    for (const { number, signal } of this.#signals) if (number > signals) link.send({ type: 'signal', number, signal });
    if (this.#confirmed > 0) link.send({ type: 'confirm', at: this.#confirmed });
    return true;
  }

  #sendInput(): void {
    const [link, input] = [this.#link, this.#input];
    if (link === null || input === null) return;
    for (const { at, bytes } of input.read(this.#sent, input.from + inputWindowBytes, payloadBytes)) {
      link.send({ type: 'input', at, bytes });
      this.#sent = at + bytes.length;
    }
  }

  #take(frame: GuestFrame): void {
    if (this.#closed || this.#ended !== null) return;
    const client = this.#client;
    if (client === null) {
      // A guest may send no more than its window before there is a client.
      if (this.#early.push(frame) > earlyFrames) this.close(true);
      return;
    }
    if (frame.type === 'read') this.#takeRead(client, frame.at);
    else if (frame.type === 'output') this.#takeOutput(client, frame);
    else if (frame.type === 'ended') this.#takeEnd(frame);
  }

  #takeRead(client: ClientEnd, at: number): void {
    const before = this.#input?.from;
    if (this.#input?.confirm(at) !== true) {
      this.#refuseGuest('it has read what it was never sent');
      return;
    }
    // A guest that says it again and again is no news.
    if (this.#input.from === before) return;
    client.inputRead(at);
    this.#sendInput();
  }

  /** What comes twice, after a connection was lost, is left out. */
  #takeOutput(client: ClientEnd, { at, channel, bytes }: Extract<GuestFrame, { type: 'output' }>): void {
    if (at > this.#passed) {
      this.#refuseGuest('its output has a gap');
      return;
    }
    const fresh = bytes.subarray(Math.min(bytes.length, this.#passed - at));
    if (fresh.length === 0) return;
    this.#idle.touch();
    this.#passed += fresh.length;
    client.output(channel, fresh, this.#passed);
  }

  #takeEnd({ at, how, code }: Extract<GuestFrame, { type: 'ended' }>): void {
    if (at !== this.#passed) this.#refuseGuest('it ends before its output does');
    else if (how === 'timedOut') this.#finish(exitStatus(code, 'Timeout'));
    else this.#finish(exitStatus(how === 'signalled' ? 128 + code : code));
  }

  #refuseGuest(why: string): void {
    this.#finish({ status: 'Failure', reason: 'GuestInvalid', message: `The guest's program is wrong: ${why}` });
  }

  /** The guest keeps the session until the client has its end: it may come again for that. */
  #finish(status: StreamStatus): void {
    if (this.#ended !== null || this.#closed) return;
    this.#ended = status;
    this.#idle.stop();
    if (this.#client === null) return;
    this.#client.end(status, () => this.close(status.reason !== 'Replaced'));
  }

  /** In the guest at once: a client that is gone without a word does not confirm its end. */
  #endIdle(): void {
    this.#link?.send({ type: 'close' });
    this.#finish({ status: 'Failure', reason: 'IdleTimeout', message: this.#idle.reason });
  }

  #reconnect(): void {
    if (this.#closed || this.#ended !== null || this.#client === null) return;
    keepReaching(() => this.#attach({ type: 'attach', after: this.#passed }), {
      isOver: () => this.#closed,
      passes: (code) => passing.has(code),
      backoff: this.#options.backoff,
    }).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      this.#finish({ status: 'Failure', reason: 'SessionLost', message });
    });
  }
}
