import { setTimeout as delay } from 'node:timers/promises';
import { Gauge, Registry } from 'prom-client';
import { Agent } from 'undici';
import { openEdge } from '../drivers/network/edge.ts';
import { openPublicAddresses } from '../drivers/network/public-addresses.ts';
import { spreadReceived } from '../drivers/network/receive-queues.ts';
import { openEdgeOrders } from '../drivers/transfer/edge-orders.ts';
import { readConfig } from '../model/config.ts';
import { openLog } from '../model/log.ts';
import { type EdgeFollower, followOrders } from './edge/follow-orders.ts';
import { feedWatchdog } from './feed-watchdog.ts';
import { startRepeating } from './repeat.ts';
import { serveMetrics } from './runtime.ts';

/**
 * The edge worker: keeps this machine's segments, rules and public addresses as the ledger wants them. It has access to the
 * API alone. When it ends, connections continue; its kernel gives up the public addresses two seconds later.
 */
const passEveryMs = 500;
const config = readConfig(['log', 'edge'], process.env);
const { BERTH_EDGE_ID: edgeId, ...edge } = config.edge;
const log = openLog('edge', config.log.BERTH_LOG_LEVEL, { edgeId });
feedWatchdog(log);
await spreadReceived(edge.BERTH_EDGE_PUBLIC_INTERFACE);

const dispatcher = new Agent({ connections: 4, keepAliveTimeout: 30_000 });
const follower = followOrders({
  address: edge.BERTH_EDGE_ADDRESS,
  kernel: openEdge({
    address: edge.BERTH_EDGE_ADDRESS,
    openPorts: edge.BERTH_EDGE_OPEN_PORTS,
    connections: { perClient: edge.BERTH_EDGE_CONNECTIONS_PER_CLIENT, perOwner: edge.BERTH_EDGE_CONNECTIONS_PER_OWNER },
  }),
  publicAddresses: openPublicAddresses(edge.BERTH_EDGE_PUBLIC_INTERFACE, (error) =>
    log.warn({ err: error }, 'a public address could not be announced'),
  ),
  ask: openEdgeOrders(dispatcher, {
    apiUrl: edge.BERTH_REPOSITORY_URL,
    edgeId,
    keyFile: edge.BERTH_EDGE_KEY_FILE,
    timeoutMs: 800,
  }),
  clock: () => performance.now(),
  log,
});

/** What Prometheus reads: collected when it asks. */
function metricsOf({ status }: EdgeFollower): Registry {
  const registry = new Registry();
  const gauge = (name: string, help: string, value: () => number): void =>
    void new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  gauge('berth_edge_active', 'Whether it has the public addresses', () => Number(status().active));
  gauge('berth_edge_ports', 'Published ports in its kernel', () => status().ports);
  gauge('berth_edge_segments', 'Segments that it has joined', () => status().segments);
  gauge('berth_edge_failing', 'Whether its last rules could not be applied', () => Number(status().failing));
  return registry;
}

const metrics =
  edge.BERTH_METRICS_PORT === 0
    ? null
    : serveMetrics(edge.BERTH_METRICS_LISTEN, edge.BERTH_METRICS_PORT, null, log, metricsOf(follower));
const passes = startRepeating({
  step: async () => {
    await follower.pass();
    return 'done';
  },
  intervalMs: passEveryMs,
  log,
  failure: 'no API was reached; what the kernel has stays',
  level: 'warn',
});
log.info('the edge worker runs');

await new Promise<void>((resolve) => {
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => resolve());
});
await passes.stop();
await Promise.race([follower.settled(), delay(5000)]);
metrics?.close();
await dispatcher.close();
log.info('the edge worker has ended');
process.exit(0);
