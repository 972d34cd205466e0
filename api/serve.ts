import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { Request, Response } from 'express';

/** A connection that transfers nothing for this long is closed, which ends an abandoned upload. */
const idleMs = 120_000;
const headersMs = 15_000;
/** Longer than the idle time of usual proxies, so that the proxy closes the connection and not this server. */
const keepAliveMs = 75_000;
/** How long the rest of a body is read after its refusal, so that the sender receives the answer. */
const lingerMs = 5_000;

const awaitingContinue = new WeakSet<IncomingMessage>();

/** Answers `Expect: 100-continue`, so that the client sends its body; before that it can be refused without a transfer. */
export function expectBody(req: Request, res: Response): void {
  if (awaitingContinue.delete(req)) res.writeContinue();
}

/** Reads and drops the rest of a body: an answer is lost when the connection is reset while the client still sends. */
function linger(req: IncomingMessage): void {
  if (req.complete || req.socket.destroyed) return;
  const timer = setTimeout(() => req.socket.destroy(), lingerMs);
  req.once('close', () => clearTimeout(timer));
  req.resume();
}

/** Listens, with every timeout set. There is none for a whole request: a large file may take hours. */
export async function serve(app: RequestListener, address: { port: number; host: string }): Promise<Server> {
  const server = createServer({
    requestTimeout: 0,
    headersTimeout: headersMs,
    keepAliveTimeout: keepAliveMs,
    connectionsCheckingInterval: 5_000,
    keepAlive: true,
    maxHeaderSize: 16 * 1024,
  });
  server.setTimeout(idleMs);
  server.on('request', (req, res) => {
    res.once('finish', () => linger(req));
    app(req, res);
  });
  server.on('checkContinue', (req: IncomingMessage, res) => {
    awaitingContinue.add(req);
    server.emit('request', req, res);
  });
  server.listen(address.port, address.host);
  await once(server, 'listening');
  return server;
}

/** Takes no new requests, waits up to `graceMs` for those under way, then closes their connections. */
export async function close(server: Server, graceMs: number): Promise<void> {
  const timer = setTimeout(() => server.closeAllConnections(), graceMs);
  const closed = once(server, 'close');
  server.close();
  server.closeIdleConnections();
  await closed;
  clearTimeout(timer);
}
