import { setTimeout as pause } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { berthProtocol } from '../../model/streams/channels.ts';
import { keepAlive } from '../../model/streams/keep-alive.ts';
import { closeCodes, InvalidMessage, takeMessages } from '../../model/streams/messages.ts';
import { CallError, type Connection } from '../client.ts';

const connectMs = 90_000;
/** Less than the ten minutes for which a guest keeps a session that nobody is connected to. */
const resumableMs = 9 * 60_000;
const minPauseMs = 100;
const maxPauseMs = 2000;
/** A connection that is silent is asked whether it is there. */
const keepAliveMs = 15_000;
export const normalClose = closeCodes.normal;
/** Of an answer that refuses the connection. */
const refusalChars = 64 * 1024;
/** The API's largest message is a frame's bytes. */
const messageBytes = 2 ** 20;

export interface ConnectionEvents {
  /** The next message is taken when it has returned. */
  onMessage(socket: WebSocket, data: Buffer): Promise<void>;
  /** After the last message. */
  onClose(socket: WebSocket, code: number, reason: string): Promise<void>;
  /** What either has thrown. */
  onError(error: unknown): void;
}

/** A route's address as that of a WebSocket. */
export function socketUrl({ api }: Connection, path: string): URL {
  const url = new URL(path, api);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return url;
}

/** Connects to a route of the API; throws CallError with the API's reason where it refuses. */
export async function openSocket({ api, key }: Connection, url: URL, events: ConnectionEvents): Promise<WebSocket> {
  const headers = { authorization: `Bearer ${key}` };
  const socket = new WebSocket(url, berthProtocol, {
    headers,
    handshakeTimeout: connectMs,
    perMessageDeflate: false,
    maxPayload: messageBytes,
  });
  const fail = (error: unknown): void =>
    events.onError(
      error instanceof InvalidMessage
        ? new CallError(`${api} sent what is no message of a session: ${error.message}`, null)
        : error,
    );
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('unexpected-response', (_request, response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text = (text + chunk).slice(0, refusalChars);
      });
      response.once('end', () => reject(refusalOf(response.statusCode ?? 0, text)));
      response.once('error', reject);
    });
    socket.on('error', (error) => reject(new CallError(`${api} does not answer: ${error.message}`, null, error)));
    // In the order of their coming: the next one is taken when the one before was.
    let turn = Promise.resolve();
    takeMessages(socket, {
      binary(data) {
        socket.pause();
        turn = turn
          .then(() => events.onMessage(socket, data))
          .then(() => socket.resume())
          .catch(fail);
      },
      onBug: fail,
    });
    socket.once('close', (code, reason) => {
      turn.then(() => events.onClose(socket, code, String(reason))).catch(fail);
    });
  });
  keepAlive(socket, keepAliveMs);
  return socket;
}

/** After an error here: the session ends in the guest as well, and what still comes is dropped. */
export function endConnection(socket: WebSocket | null): void {
  socket?.close(normalClose);
  socket?.resume();
}

/** Connects again after a loss, for as long as what is connected to is kept. */
export async function connectAgain(connect: () => Promise<void>): Promise<void> {
  const untilMs = performance.now() + resumableMs;
  for (let waitMs = minPauseMs; ; waitMs = Math.min(maxPauseMs, waitMs * 2)) {
    try {
      return await connect();
    } catch (error) {
      const passes = error instanceof CallError && (error.status === null || error.status === 409 || error.status >= 429);
      if (!passes || performance.now() > untilMs) throw error;
    }
    await pause(waitMs);
  }
}

const Refusal = z.object({ title: z.string(), code: z.string(), detail: z.string() });

function refusalOf(status: number, text: string): CallError {
  try {
    const { title, code, detail } = Refusal.parse(JSON.parse(text));
    return new CallError(`${title} (${code}): ${detail}`, status);
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof z.ZodError)) throw error;
    return new CallError(`The answer was ${status}; is this the address of Berth's API?`, status);
  }
}
