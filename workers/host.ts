import { Client } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { readConfig } from '../model/config.ts';
import type { HostId } from '../model/ids.ts';
import { openLog } from '../model/log.ts';
import { controlQueue, hostQueue, signalName, workflowId, workflowType } from '../model/temporal.ts';
import { retryForever } from './retry-forever.ts';
import { connectWorker, installRuntime, serveMetrics } from './runtime.ts';
import { wireHost } from './wire-host.ts';

/**
 * The host worker: the activities of one host, on its own queue. It knows Temporal, and the repository by the signed
 * URLs in its orders; not the database. SIGTERM: gives back what it was doing, ends; what runs on the host goes on.
 */
const config = readConfig(['log', 'temporal', 'host'], process.env);
const hostId = config.host.BERTH_HOST_ID as HostId;
const log = openLog('host', config.log.BERTH_LOG_LEVEL, { hostId });
const { BERTH_METRICS_PORT: metricsPort, BERTH_METRICS_LISTEN: metricsListen } = config.host;
const sdkAddress = installRuntime(log, metricsPort);

const [wired, connection] = await Promise.all([wireHost(config.host, log), connectWorker(config.temporal.TEMPORAL_ADDRESS, log)]);
const worker = await Worker.create({
  connection,
  namespace: config.temporal.TEMPORAL_NAMESPACE,
  taskQueue: hostQueue(hostId),
  activities: wired.activities,
  // A running command holds a slot for as long as it runs, and the host's presence holds one for ever.
  maxConcurrentActivityTaskExecutions: 256,
  // Cancellation reaches an activity in the answer to a heartbeat: with the default of 30 s it would take that long.
  maxHeartbeatThrottleInterval: '2s',
  defaultHeartbeatThrottleInterval: '2s',
  shutdownForceTime: '8s',
});
const metrics = sdkAddress === null ? null : serveMetrics(metricsListen, metricsPort, sdkAddress, log);

const client = new Client({ connection, namespace: config.temporal.TEMPORAL_NAMESPACE });
const running = worker.run();
void retryForever('telling the site that this host has arrived', log, async () => {
  const facts = await wired.activities.observeHost();
  await client.workflow.signalWithStart(workflowType.host, {
    workflowId: workflowId.host(hostId),
    taskQueue: controlQueue,
    args: [hostId],
    signal: signalName.hostRegistered,
    signalArgs: [facts],
  });
  log.info({ facts }, 'the host has arrived');
});
await running;
metrics?.close();
await wired.close();
await connection.close();
log.info('the host worker has ended');
process.exit(0);
