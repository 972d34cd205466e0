import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { Request, Response } from 'express';
import { isWebSocketRequest, takeUpgrades } from './http/upgrade.ts';

/** A connection that transfers nothing for this long is closed, which ends an abandoned upload. */
const idleMs = 120_000;
const headersMs = 15_000;
/** Longer than the idle time of usual proxies, so that the proxy closes the connection and not this server. */
const keepAliveMs = 75_000;
/** How long the rest of a body is read after its refusal, so that the sender receives the answer. */
const lingerMs = 5_000;
/** A body of the largest JSON that a route takes is dropped within that time. */
const lingerBytesPerMs = 1024;
const freeBytes = 64 * 1024;

const awaitingContinue = new WeakSet<IncomingMessage>();

/** Answers `Expect: 100-continue`, so that the client sends its body; before that it can be refused without a transfer. */
export function expectBody(req: Request, res: Response): void {
  if (awaitingContinue.delete(req)) res.writeContinue();
}

/**
 * Reads and drops the rest of a body: an answer is lost when the connection is reset while the client still sends. No faster than
 * `lingerBytesPerMs`: a client whose megabytes are refused one after the other would keep a processor busy with reading them.
 */
function linger(req: IncomingMessage): void {
  const { socket } = req;
  if (req.complete || socket.destroyed) return;
  let paidBytes = socket.bytesRead + freeBytes;
  let next: NodeJS.Timeout;
  /** Reads nothing for as long as what has arrived since the last time may take. */
  const rest = (then: () => void): void => {
    const dueBytes = Math.max(0, socket.bytesRead - paidBytes);
    paidBytes += dueBytes;
    const pauseMs = Math.min(lingerMs, Math.floor(dueBytes / lingerBytesPerMs));
    if (pauseMs > 0) socket.pause();
    next = setTimeout(() => {
      socket.resume();
      then();
    }, pauseMs);
  };
  const pace = (): void =>
    rest(() => {
      // After what the kernel has for it by now.
      next = setTimeout(pace, 1);
    });
  const end = setTimeout(() => socket.destroy(), lingerMs);
  const stop = (): void => {
    clearTimeout(end);
    clearTimeout(next);
    req.off('close', stop);
    socket.off('close', stop);
    // The connection's next request waits as well.
    if (!socket.destroyed) rest(() => undefined);
  };
  req.once('close', stop);
  // A request that was answered hears nothing of its connection's end.
  socket.once('close', stop);
  req.resume();
  next = setTimeout(pace, 1);
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
    shouldUpgradeCallback: isWebSocketRequest,
  });
  server.setTimeout(idleMs);
  server.on('request', (req, res) => {
    res.once('finish', () => linger(req));
    app(req, res);
  });
  takeUpgrades(server, app);
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
