import { Client, WorkflowIdConflictPolicy } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { Registry } from 'prom-client';
import { guard } from '../activities/failure.ts';
import { createLedgerActivities } from '../activities/ledger/index.ts';
import { openLedger } from '../ledger/client.ts';
import { openLedgerClock } from '../ledger/ledger-clock.ts';
import { readConfig } from '../model/config.ts';
import { openLog } from '../model/log.ts';
import { controlQueue, workflowId, workflowTaskTimeoutOf, workflowType } from '../model/temporal.ts';
import { applyMigrations } from '../prisma/migrate.ts';
import { startCollectingBills } from './books/collect-bills.ts';
import { startKeepingBooks } from './books/keep-books.ts';
import { controlLimits } from './control-limits.ts';
import { startEndingWorkflows } from './end-workflows.ts';
import { feedWatchdog } from './feed-watchdog.ts';
import { startKeepingLoads } from './load/keep-loads.ts';
import { loggedBudget } from './payload-budget.ts';
import { retiredWorkflowsText } from './retired-workflows.ts';
import { retryForever } from './retry-forever.ts';
import { connectWorker, installRuntime, serveMetrics } from './runtime.ts';
import { startWebhooks } from './webhooks/start-webhooks.ts';
import { workflowBundle } from './workflow-bundle.ts';
import { lightenWorkflowThreads } from './workflow-threads/lighten.ts';

/**
 * The control worker: all workflows, the activities on the ledger, and deliveries to webhooks. Several of them can share the queues
 * `control` and `webhooks`.
 * SIGTERM: accepts no new work, finishes its workflow tasks, ends.
 */
const config = readConfig(['log', 'temporal', 'ledger', 'signing', 'control', 'webhooks'], process.env);
const log = openLog('control', config.log.BERTH_LOG_LEVEL);
feedWatchdog(log);
const { BERTH_METRICS_PORT: metricsPort, BERTH_METRICS_LISTEN: metricsListen } = config.control;
lightenWorkflowThreads();
const sdkAddress = installRuntime(log, metricsPort);

const connection = await connectWorker(config.temporal.TEMPORAL_ADDRESS, log);
const dataConverter = loggedBudget(log);
const client = new Client({ connection, namespace: config.temporal.TEMPORAL_NAMESPACE, dataConverter });
// Before the database is migrated: 0.1 still needs its own schema then.
const refusal = await retryForever('counting the workflows of 0.1', log, () => retiredWorkflowsText(client));
if (refusal !== null) {
  log.error(refusal);
  process.exit(1);
}
const [bundle] = await Promise.all([
  workflowBundle(config.control.BERTH_BUNDLE_FOLDER ?? null, log),
  retryForever('applying the migrations', log, () => applyMigrations(config.ledger.DATABASE_URL)),
]);
const ledger = openLedger(config.ledger.DATABASE_URL);
const { signing, control } = config;
const ledgerClock = await retryForever("reading the ledger's clock", log, () => openLedgerClock(ledger));
setInterval(() => {
  ledgerClock.compare().catch((error: unknown) => log.warn({ err: error }, "the ledger's clock could not be read"));
}, 60_000).unref();
const worker = await Worker.create({
  connection,
  namespace: config.temporal.TEMPORAL_NAMESPACE,
  taskQueue: controlQueue,
  workflowBundle: bundle,
  dataConverter,
  activities: guard(createLedgerActivities({ ledger, signing, control, clock: ledgerClock.nowMs })),
  ...controlLimits,
  shutdownForceTime: '8s',
});
const registry = new Registry();
const metrics = sdkAddress === null ? null : serveMetrics(metricsListen, metricsPort, sdkAddress, log, registry);

const running = worker.run();
const startSingleton = (what: string, type: string, id: string) =>
  retryForever(`starting ${what}`, log, () =>
    client.workflow.start(type, {
      workflowId: id,
      taskQueue: controlQueue,
      workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
      ...workflowTaskTimeoutOf(type),
    }),
  );
void startSingleton('the housekeeping', workflowType.housekeeping, workflowId.housekeeping());
void startSingleton('the planner', workflowType.planner, workflowId.planner());
const books = startKeepingBooks({ ledger, log, clock: ledgerClock.nowMs });
const bills = startCollectingBills({ ledger, log, clock: ledgerClock.nowMs, config: control });
const loads = startKeepingLoads({ ledger, log, clock: ledgerClock.nowMs });
const webhooks = await startWebhooks({
  connection,
  namespace: config.temporal.TEMPORAL_NAMESPACE,
  client,
  ledger,
  config: config.webhooks,
  log,
  clock: ledgerClock.nowMs,
  registry,
});
const endings = startEndingWorkflows({ ledger, client, log });
log.info('the control worker runs');
await running;
await webhooks.stop();
await endings.stop();
await loads.stop();
await bills.stop();
await books.stop();
metrics?.close();
await ledger.$disconnect();
await connection.close();
log.info('the control worker has ended');
process.exit(0);
