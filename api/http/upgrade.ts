import { type IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Request, Response } from 'express';
import { type WebSocket, WebSocketServer } from 'ws';
import { BerthError } from '../../model/errors.ts';

/** Requests whose connection becomes a WebSocket, if their route takes them. */
const upgrading = new WeakMap<IncomingMessage, { socket: Duplex; head: Buffer }>();

/** Only these leave HTTP: any other `Upgrade` is ignored, as a server may. */
export const isWebSocketRequest = ({ method, headers }: IncomingMessage): boolean =>
  method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket';

/**
 * Has the application answer requests to upgrade as it does all others, by their routes: with the same authentication, limits and
 * problems. A route that takes one calls `acceptWebSocket`.
 */
export function takeUpgrades(server: Server, app: (req: IncomingMessage, res: ServerResponse) => void): void {
  server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const res = new ServerResponse(req);
    res.shouldKeepAlive = false;
    res.assignSocket(req.socket);
    socket.on('error', () => socket.destroy());
    res.once('finish', () => socket.end());
    upgrading.set(req, { socket, head });
    app(req, res);
  });
}

/** Whether the connection of a request would become a WebSocket. */
export const asksWebSocket = (req: IncomingMessage): boolean => upgrading.has(req);

const keyPattern = /^[+/0-9A-Za-z]{22}==$/;

/** Whether a browser would send this for a page of that host: a scheme, a host and perhaps a port, and nothing else. */
function isOrigin(text: string, host: string | undefined): boolean {
  const url = URL.parse(text);
  return url !== null && /^https?:$/.test(url.protocol) && url.origin === text && url.host === host;
}

/**
 * Checks a request for a WebSocket before anything is begun for it: `upgrade-required` where it asks for none, `forbidden` where a
 * page of another origin asks. Returns the first of our protocols that it offers.
 */
export function requireWebSocket(req: Request, protocols: readonly string[]): string {
  if (!upgrading.has(req))
    throw new BerthError(
      'upgrade-required',
      `This route is a WebSocket: expected Upgrade: websocket and one of ${protocols.join(', ')}`,
    );
  const { origin, host } = req.headers;
  if (origin !== undefined && !isOrigin(origin, host))
    throw new BerthError('forbidden', `Found the Origin ${origin}; a page of another origin must not connect`);
  if (req.headers['sec-websocket-version'] !== '13' || !keyPattern.test(req.headers['sec-websocket-key'] ?? ''))
    throw new BerthError('bad-request', 'Expected Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key of 16 bytes');
  const offered = (req.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
  const protocol = protocols.find((name) => offered.includes(name));
  if (protocol === undefined)
    throw new BerthError('bad-request', `Found no known Sec-WebSocket-Protocol; expected one of ${protocols.join(', ')}`);
  return protocol;
}

/** Answers 101; nothing of the WebSocket is read until it is resumed. The response stays with the connection, so that what ends it when its key is revoked ends the WebSocket. */
export function acceptWebSocket(req: Request, res: Response, protocol: string, maxPayload: number): Promise<WebSocket> {
  const upgrade = upgrading.get(req);
  if (upgrade === undefined) throw new Error('BUG: no request for a WebSocket');
  upgrading.delete(req);
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload,
    handleProtocols: () => protocol,
  });
  res.statusCode = 101;
  // A session may be silent for hours; TCP's keep-alive detects a client that is gone.
  req.socket.setTimeout(0);
  req.socket.setNoDelay(true);
  return new Promise((resolve, reject) => {
    req.socket.once('close', () => reject(new BerthError('bad-request', 'The client is gone')));
    server.handleUpgrade(req, upgrade.socket, upgrade.head, (webSocket) => {
      webSocket.pause();
      // What comes before anything listens, and is no frame, would end the process when the connection closes.
      webSocket.on('error', () => undefined);
      resolve(webSocket);
    });
  });
}
