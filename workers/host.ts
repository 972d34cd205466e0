import { Client } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { readConfig } from '../model/config.ts';
import type { HostId } from '../model/ids.ts';
import { openLog } from '../model/log.ts';
import { hostQueue } from '../model/temporal.ts';
import { feedWatchdog } from './feed-watchdog.ts';
import { heartbeatThrottle, hostLimits } from './host-limits.ts';
import { reportHelp } from './load/report-help.ts';
import { loggedBudget } from './payload-budget.ts';
import { registerHost } from './register-host.ts';
import { reportDomains } from './report-domains.ts';
import { connectWorker, installRuntime, serveMetrics } from './runtime.ts';
import { wireHost } from './wire-host.ts';

/**
 * The host worker: the activities of one host, on the host's own queue. It has access to Temporal, and to the repository by
 * signed URLs, not to the database. SIGTERM: ends its activities, which are repeated later; domains continue to run.
 */
const config = readConfig(['log', 'temporal', 'host'], process.env);
const hostId = config.host.BERTH_HOST_ID as HostId;
const log = openLog('host', config.log.BERTH_LOG_LEVEL, { hostId });
feedWatchdog(log);
const { BERTH_METRICS_PORT: metricsPort, BERTH_METRICS_LISTEN: metricsListen } = config.host;
const sdkAddress = installRuntime(log, metricsPort);

const [wired, connection] = await Promise.all([wireHost(config, log), connectWorker(config.temporal.TEMPORAL_ADDRESS, log)]);
const dataConverter = loggedBudget(log);
const worker = await Worker.create({
  connection,
  dataConverter,
  namespace: config.temporal.TEMPORAL_NAMESPACE,
  taskQueue: hostQueue(hostId),
  activities: wired.activities,
  ...hostLimits,
  ...heartbeatThrottle,
  shutdownForceTime: '8s',
});
const metrics = sdkAddress === null ? null : serveMetrics(metricsListen, metricsPort, sdkAddress, log);

const client = new Client({ connection, namespace: config.temporal.TEMPORAL_NAMESPACE, dataConverter });
const stopBefore = () => process.exit(0);
process.once('SIGTERM', stopBefore);
// A second machine with this id must not take the first one's steps.
await registerHost({ client, hostId, observe: () => wired.activities.observeHost(), log });
process.off('SIGTERM', stopBefore);
const running = worker.run();
const watch = new AbortController();
// Without it the site would not learn what domains do: systemd starts the worker again.
wired
  .watchDomains((vmIds) => reportDomains(client, hostId, vmIds, log), watch.signal)
  .catch((error: unknown) => {
    log.fatal({ err: error }, 'the domains are not watched any more');
    process.exit(1);
  });
const loads = wired.watchLoad((verdict) => void reportHelp(client, hostId, verdict, log), watch.signal);
await running;
watch.abort();
await loads;
metrics?.close();
await wired.close();
await connection.close();
log.info('the host worker has ended');
process.exit(0);
