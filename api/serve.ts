import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { Request, Response } from 'express';

/** A connection on which nothing moves for this long is ended; it is what ends an abandoned upload. */
const idleMs = 120_000;
const headersMs = 15_000;
/** Longer than the idle time of usual proxies, so that it is they who close. */
const keepAliveMs = 75_000;
/** For how long the rest of a body is still read after its refusal, so that the sender sees the answer. */
const lingerMs = 5_000;

const awaitingContinue = new WeakSet<IncomingMessage>();

/** Tells a client that sent `Expect: 100-continue` to send its body; until then a refusal costs it nothing. */
export function expectBody(req: Request, res: Response): void {
  if (awaitingContinue.delete(req)) res.writeContinue();
}

/** Reads on after a refusal, for a while: an answer is lost when a connection is reset under a client that still sends. */
function linger(req: IncomingMessage): void {
  if (req.complete || req.socket.destroyed) return;
  const timer = setTimeout(() => req.socket.destroy(), lingerMs);
  req.once('close', () => clearTimeout(timer));
  req.resume();
}

/** Listens, with every time-out set. There is none for a whole request: a large file may take hours. */
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

/** Takes no new requests, lets those under way end for `graceMs`, then ends them. */
export async function close(server: Server, graceMs: number): Promise<void> {
  const timer = setTimeout(() => server.closeAllConnections(), graceMs);
  const closed = once(server, 'close');
  server.close();
  server.closeIdleConnections();
  await closed;
  clearTimeout(timer);
}
