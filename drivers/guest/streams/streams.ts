import { WebSocket } from 'ws';
import type { StreamOrder } from '../../../contracts/stream.ts';
import { BerthError } from '../../../model/errors.ts';
import type { Logger } from '../../../model/log.ts';
import { hostCloseCodes, hostProtocol } from '../../../model/streams/channels.ts';
import { bodyBytes, isSession, sessionOf } from '../../../model/streams/frames.ts';
import { keepAlive } from '../../../model/streams/keep-alive.ts';
import { endSocket, InvalidMessage, takeMessages } from '../../../model/streams/messages.ts';
import { messageOf } from '../../host/files.ts';
import type { ChannelState } from '../../libvirt/channel-state.ts';
import type { ConsoleHistory, Streams } from '../../ports/streams.ts';
import type { GuestAgent } from '../guest-agent.ts';
import { runByAgent } from './agent-session.ts';
import { Consoles } from './consoles.ts';
import { type GuestPort, openGuestPort } from './guest-port.ts';

interface StreamsOptions {
  agent: Pick<GuestAgent, 'exec'>;
  host: string;
  pathsOf: (domain: string) => { streamSocket: string; console: string; consoleSocket: string };
  channelState: (domain: string) => Promise<ChannelState>;
  consoleHistory: Pick<ConsoleHistory, 'arrived'>;
  /** Where the API is, for orders that don't say. */
  apiUrl: string;
  log: Logger;
}

/** Of a host, and of one owner there: others find some, whatever one does. */
const streamsOfHost = 128;
const streamsOfOwner = 100;
/** A guest on a busy machine; the client waits meanwhile. */
const greetingDeadlineMs = 20_000;
const dialDeadlineMs = 10_000;
/** The API sends what the session is at once. */
const firstBodyMs = 10_000;
const keepAliveMs = 15_000;
/** A port without clients is closed after this, so that the commands of a script share one. */
const idlePortMs = 5000;
/** A client's window is less than this: a guest that doesn't keep to it loses its connection. */
const unsentBytes = 2 * 2 ** 20;

/** Connects sessions of guests with the API, to which this host connects: nothing connects into it. */
export function openStreams(options: StreamsOptions): Streams & { close(): void } {
  const { host, pathsOf, channelState, consoleHistory, log } = options;
  const ports = new Map<string, Promise<GuestPort>>();
  const open = new Map<WebSocket, string>();
  const note = (about: { domain: string; why: string }) => log.info(about, "a client's connection to a guest has ended");
  const onBug = (error: unknown): void => log.error({ err: error }, 'a message of the API was not handled');
  const consoles = new Consoles({ host, pathsOf, note, arrived: (domain) => consoleHistory.arrived(domain), onBug });

  /** The one connection to a guest that all its clients share. */
  async function portOf(domain: string): Promise<GuestPort> {
    const known = ports.get(domain);
    if (known !== undefined) {
      const port = await known.catch(() => null);
      if (port !== null && !port.lost) return port;
      if (ports.get(domain) !== known) return portOf(domain);
    }
    const opening = openGuestPort(pathsOf(domain).streamSocket, {
      deadlineMs: greetingDeadlineMs,
      isOpen: async () => (await channelState(domain)) === 'connected',
    });
    ports.set(domain, opening);
    opening.catch(() => ports.get(domain) === opening && ports.delete(domain));
    return opening;
  }

  function closeIfIdle(domain: string, port: GuestPort): void {
    setTimeout(async () => {
      const known = ports.get(domain);
      if (known === undefined || (await known.catch(() => null)) !== port || port.users > 0) return;
      ports.delete(domain);
      port.close();
    }, idlePortMs).unref();
  }

  async function findProgram(domain: string, needsProgram: boolean): Promise<GuestPort | null> {
    try {
      if ((await channelState(domain)) === 'absent')
        throw new BerthError(
          'guest-program-missing',
          `${domain} has devices of an earlier version, without the port of Berth's program; its next cold boot gives it one`,
        );
      return await portOf(domain);
    } catch (error) {
      if (needsProgram || !(error instanceof BerthError) || error.code !== 'guest-program-missing') throw error;
      return null;
    }
  }

  function requirePlace(owner: string): void {
    const own = [...open.values()].filter((other) => other === owner).length;
    if (open.size >= streamsOfHost || own >= streamsOfOwner)
      throw new BerthError('rate-limited', `This host has ${open.size} sessions of clients, ${own} of this owner; end some`);
  }

  return {
    async open(domain, order) {
      requirePlace(order.owner);
      const port = order.console ? null : await findProgram(domain, order.needsProgram);
      requirePlace(order.owner);
      const socket = await dial(new URL(`/internal/streams/${order.id}`, order.url ?? options.apiUrl), order);
      open.set(socket, order.owner);
      socket.once('close', () => {
        open.delete(socket);
        if (port !== null) closeIfIdle(domain, port);
      });
      keepAlive(socket, keepAliveMs);
      if (order.console) consoles.serve(domain, socket);
      else if (port === null) serveByAgent(options.agent, domain, { socket, onBug });
      else serveByPort(port, { socket, onBug }, (why) => note({ domain, why }));
      socket.resume();
    },
    close() {
      for (const socket of open.keys()) socket.terminate();
      for (const port of ports.values()) port.then((opened) => opened.close()).catch(() => undefined);
    },
  };
}

/** Resolves when the API has accepted the connection, of which nothing is read yet. */
function dial(url: URL, { token }: StreamOrder): Promise<WebSocket> {
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url, hostProtocol, {
    headers: { 'berth-stream-token': token },
    handshakeTimeout: dialDeadlineMs,
    maxPayload: bodyBytes,
    perMessageDeflate: false,
  });
  return new Promise((resolve, reject) => {
    socket.once('open', () => {
      // The API's first message may have come with its answer, before anything listens.
      socket.pause();
      resolve(socket);
    });
    socket.on('error', (error) => reject(new BerthError('unavailable', `connecting to ${url.host}: ${messageOf(error)}`)));
  });
}

/** The API's connection for one client. */
interface ApiEnd {
  socket: WebSocket;
  /** Told of what a listener throws. */
  onBug: (error: unknown) => void;
}

function serveByPort(port: GuestPort, { socket, onBug }: ApiEnd, note: (why: string) => void): void {
  let session: string | null = null;
  const user = {
    onBody(body: Buffer) {
      socket.send(body);
      if (socket.bufferedAmount <= unsentBytes) return;
      note('the guest sends more than it may');
      socket.terminate();
    },
    onLost(why: string) {
      note(why);
      endSocket(socket, hostCloseCodes.lost, why);
    },
    onReplaced() {
      endSocket(socket, hostCloseCodes.replaced, 'another connection has the session');
    },
  };
  endUnlessUsed(socket);
  takeMessages(socket, {
    binary(body) {
      const named = sessionOf(body);
      session ??= named !== null && isSession(named) ? named : null;
      if (session === null || named !== session) throw new InvalidMessage('not of one session');
      port.use(session, user);
      port.send(body);
    },
    invalid: hostCloseCodes.invalid,
    onBug,
  });
  socket.once('close', () => {
    if (session !== null) port.detach(session, user);
  });
}

/** What comes after the first message is for a command without an input: nothing is made of it. */
function serveByAgent(agent: Pick<GuestAgent, 'exec'>, domain: string, { socket, onBug }: ApiEnd): void {
  let isBegun = false;
  endUnlessUsed(socket);
  takeMessages(socket, {
    binary(body) {
      const session = sessionOf(body);
      if (session === null) throw new InvalidMessage('not of a session');
      if (isBegun) return;
      isBegun = true;
      runByAgent(agent, domain, session, body, (answer) => socket.send(answer)).catch((error: unknown) =>
        endSocket(socket, hostCloseCodes.lost, messageOf(error)),
      );
    },
    invalid: hostCloseCodes.invalid,
    onBug,
  });
}

function endUnlessUsed(socket: WebSocket): void {
  const timer = setTimeout(() => socket.terminate(), firstBodyMs);
  socket.once('message', () => clearTimeout(timer));
  socket.once('close', () => clearTimeout(timer));
}
