import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { edgeKeyFile, edgeName, hostKeyFile, hostName } from './host/host-folders.ts';
import { edgeAddress, hostAddress, publicAddress } from './network.ts';
import { persistentSecret } from './secrets.ts';
import type { SiteBase } from './site-base.ts';

/** TCP ports of the site's processes on the machine itself. */
export interface Ports {
  api: number;
  operators: number;
  postgres: number;
  /** The control worker's metrics. */
  control: number;
  temporal: { port: number; uiPort: number; metricsPort: number };
}

/** The same on each host, since each has an address of its own. */
export const hostMetricsPort = 9464;
const usualApiPort = 8080;

/** @param apiPort 0: any free one; null: the default one where it is free */
export async function choosePorts(ground: SiteBase, apiPort: number | null): Promise<Ports> {
  const local = ['127.0.0.1'];
  const shared = [...local, ground.network.gateway];
  const api = apiPort === null ? { preferred: usualApiPort } : { required: apiPort };
  return {
    api: await ground.port('api', shared, api),
    operators: await ground.port('operators', local),
    postgres: await ground.port('postgres', local),
    control: await ground.port('control-metrics', local),
    temporal: {
      port: await ground.port('temporal', shared),
      uiPort: await ground.port('temporal-ui', local),
      metricsPort: await ground.port('temporal-metrics', local),
    },
  };
}

export interface Settings {
  signingKey: string;
  /** For the API and the control worker; the database's URL is added once it is known. */
  control: Record<string, string>;
  /** For each host worker, by its index, from 1. */
  host: (index: number) => Record<string, string>;
  /** The same of the edge workers. */
  edge: (index: number) => Record<string, string>;
}

/**
 * The environment (model/config.ts) of the site's own processes.
 * @param reaches what guests have to reach besides what BERTH_GUEST_REACHES of this process has
 * @param given settings of the caller that override these
 */
export function settingsOf(
  ground: SiteBase,
  ports: Ports,
  hosts: number,
  edges: number,
  reaches: readonly string[],
  given: Record<string, string>,
): Settings {
  const { network, home, cache } = ground;
  const signingKey =
    given.BERTH_SIGNING_KEY ?? persistentSecret(join(home.keys, 'signing'), () => randomBytes(32).toString('hex'));
  const sealingKey = `1:${persistentSecret(join(home.keys, 'webhooks'), () => randomBytes(32).toString('base64'))}`;
  const common = {
    // Without a shared compile cache each process would need half a second more to start.
    NODE_COMPILE_CACHE: join(cache, 'node-compile'),
    BERTH_TEMPORAL_UI: `http://127.0.0.1:${ports.temporal.uiPort}`,
    BERTH_REPOSITORY_URL: `http://${network.gateway}:${ports.api}`,
  };
  return {
    signingKey,
    control: {
      ...common,
      TEMPORAL_ADDRESS: `127.0.0.1:${ports.temporal.port}`,
      BERTH_SIGNING_KEY: signingKey,
      BERTH_WEBHOOK_KEYS: sealingKey,
      BERTH_API_PORT: String(ports.api),
      BERTH_API_LISTEN: `127.0.0.1,${network.gateway}`,
      BERTH_OPERATORS_PORT: String(ports.operators),
      BERTH_REPOSITORY: home.repository,
      BERTH_BUNDLE_FOLDER: join(cache, 'workflows'),
      BERTH_METRICS_PORT: String(ports.control),
      BERTH_PUBLIC_ADDRESSES: edges === 0 ? '' : publicAddress(network),
      ...given,
    },
    host: (index) => ({
      ...common,
      TEMPORAL_ADDRESS: `${network.gateway}:${ports.temporal.port}`,
      BERTH_HOST_ID: hostName(index),
      BERTH_HOST_KEY_FILE: hostKeyFile,
      BERTH_HOST_ADDRESS: hostAddress(network, index),
      BERTH_HOSTS_CIDR: network.cidr,
      BERTH_GUEST_REACHES: [ground.env.BERTH_GUEST_REACHES ?? '', ...reaches].join(','),
      BERTH_HOST_SHARE: (1 / hosts).toFixed(4),
      BERTH_METRICS_PORT: String(hostMetricsPort),
      ...given,
    }),
    edge: (index) => ({
      ...common,
      BERTH_EDGE_ID: edgeName(index),
      BERTH_EDGE_KEY_FILE: edgeKeyFile,
      BERTH_EDGE_ADDRESS: edgeAddress(network, index),
      BERTH_EDGE_PUBLIC_INTERFACE: 'eth0',
      BERTH_EDGE_OPEN_PORTS: '',
      BERTH_METRICS_PORT: String(hostMetricsPort),
      ...given,
    }),
  };
}
