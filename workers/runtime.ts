import { createServer } from 'node:http';
import { NativeConnection, Runtime } from '@temporalio/worker';
import { collectDefaultMetrics, Registry } from 'prom-client';
import type { Logger } from '../model/log.ts';
import { retryForever } from './retry-forever.ts';

/**
 * Sends the SDK's log to the process's log, and enables its metrics. Must be called before all other parts of the SDK.
 * @returns the address at which the SDK serves its metrics; null without a metrics port
 */
export function installRuntime(log: Logger, metricsPort: number): string | null {
  // The SDK needs an address of its own; serveMetrics reads it, and no other client has to.
  const address = metricsPort === 0 ? null : `127.0.0.1:${metricsPort + 1}`;
  const forward = (level: 'trace' | 'debug' | 'info' | 'warn' | 'error') => (message: string, meta?: object) =>
    log[level](meta ?? {}, message);
  Runtime.install({
    logger: {
      log: (level, message, meta) => forward(level.toLowerCase() as 'info')(message, meta),
      trace: forward('trace'),
      debug: forward('debug'),
      info: forward('info'),
      warn: forward('warn'),
      error: forward('error'),
    },
    telemetryOptions: {
      logging: { forward: {}, filter: 'WARN' },
      ...(address === null ? {} : { metrics: { prometheus: { bindAddress: address } } }),
    },
  });
  return address;
}

/**
 * GET /metrics: this process's metrics, then the SDK's (temporal_…).
 * @param sdkAddress null: of a process without the SDK
 * @param registry of the process's own metrics
 */
export function serveMetrics(
  listen: string,
  port: number,
  sdkAddress: string | null,
  log: Logger,
  registry = new Registry(),
): { close: () => void } {
  collectDefaultMetrics({ register: registry });
  const server = createServer(async (request, response) => {
    if (request.url !== '/metrics') return response.writeHead(404).end();
    try {
      const ofSdk =
        sdkAddress === null ? null : await fetch(`http://${sdkAddress}/metrics`, { signal: AbortSignal.timeout(2000) });
      const text = `${await registry.metrics()}${(await ofSdk?.text()) ?? ''}`;
      response.writeHead(200, { 'content-type': registry.contentType }).end(text);
    } catch (error) {
      log.warn({ err: error }, 'the metrics could not be collected');
      response.writeHead(503).end();
    }
  });
  server.headersTimeout = 5000;
  server.requestTimeout = 10_000;
  server.on('error', (error) => log.error({ err: error, listen, port }, 'metrics are not served'));
  server.listen(port, listen);
  server.unref();
  return { close: () => server.close() };
}

export function connectWorker(address: string, log: Logger): Promise<NativeConnection> {
  return retryForever(`connecting to Temporal at ${address}`, log, () => NativeConnection.connect({ address }));
}
