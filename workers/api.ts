import { once } from 'node:events';
import { Client, Connection } from '@temporalio/client';
import { createApp } from '../api/app.ts';
import { openRepository } from '../api/files/repository.ts';
import { treeSite } from '../api/routes/data/tree.ts';
import { close, serve } from '../api/serve.ts';
import { openWorkflowClient } from '../api/temporal.ts';
import { openLedger } from '../ledger/client.ts';
import { readConfig } from '../model/config.ts';
import { openLog } from '../model/log.ts';
import { applyMigrations } from '../prisma/migrate.ts';
import { startEventNumbering } from './event-numbering.ts';
import { feedWatchdog } from './feed-watchdog.ts';
import { loggedBudget } from './payload-budget.ts';
import { retryForever } from './retry-forever.ts';
import { startRepositorySweep } from './sweep/repository-sweep.ts';
import { startTreeSweep } from './sweep/tree-sweep.ts';

/**
 * The API: the public listeners, and the operators' with health and metrics; the numbering of events; and the sweep of its
 * repository, whose folder only this process has. On SIGTERM it completes the requests under way and ends.
 */
const graceMs = 5000;
const config = readConfig(['log', 'temporal', 'ledger', 'signing', 'api', 'webhooks'], process.env);
const log = openLog('api', config.log.BERTH_LOG_LEVEL);
feedWatchdog(log);
const clock = () => Date.now();

await retryForever('applying the migrations', log, () => applyMigrations(config.ledger.DATABASE_URL));
const ledger = openLedger(config.ledger.DATABASE_URL);
// Lazy: requests that need no workflow are answered while Temporal is unavailable.
const connection = Connection.lazy({ address: config.temporal.TEMPORAL_ADDRESS });
const client = new Client({ connection, namespace: config.temporal.TEMPORAL_NAMESPACE, dataConverter: loggedBudget(log) });
const repository = await openRepository({
  root: config.api.BERTH_REPOSITORY,
  ledger,
  maxFileBytes: config.api.BERTH_MAX_FILE_BYTES,
  quotaBytes: config.api.BERTH_QUOTA_BYTES,
});
const { app, operatorsApp, sessions } = createApp({
  ledger,
  temporal: openWorkflowClient(client),
  repository,
  config,
  log,
  clock,
});
const sweep = startRepositorySweep({
  ledger,
  repository,
  log,
  clock,
  logRetentionDays: config.api.BERTH_LOG_RETENTION_DAYS,
  quarantineDays: config.api.BERTH_QUARANTINE_DAYS,
  maxShare: config.api.BERTH_SWEEP_MAX_SHARE,
});
const treeSweep = startTreeSweep({ ledger, repository, log, site: () => treeSite({ config, clock }) });
const numbering = startEventNumbering({ ledger, log });
const listen = (addresses: string, port: number, handler: typeof app) =>
  addresses.split(',').map((host) => serve(handler, { host: host.trim(), port }));
const servers = await Promise.all([
  ...listen(config.api.BERTH_API_LISTEN, config.api.BERTH_API_PORT, app),
  ...listen(config.api.BERTH_OPERATORS_LISTEN, config.api.BERTH_OPERATORS_PORT, operatorsApp),
]);
log.info({ addresses: servers.map((server) => server.address()) }, 'the API listens');

await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')]);
sessions.close();
await Promise.all(servers.map((server) => close(server, graceMs)));
await Promise.all([sweep.stop(), treeSweep.stop()]);
await numbering.stop();
await connection.close();
await ledger.$disconnect();
log.info('the API has ended');
process.exit(0);
