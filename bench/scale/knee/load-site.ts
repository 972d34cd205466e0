import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import pg from 'pg';
import { hashApiKey, newApiKey } from '../../../model/api-key.ts';
import type { HostId } from '../../../model/ids.ts';
import { hostKeyOf } from '../../../model/repository/host-key.ts';
import { controlQueue, searchAttributeTypes, workflowId, workflowType } from '../../../model/temporal.ts';
import { applyMigrations } from '../../../prisma/migrate.ts';
import { freePort, type Service, startService, untilReady } from '../../../test/services/child.ts';
import { query, startPostgresServer, withDatabase } from '../../../test/services/postgres-server.ts';
import { startTemporalServer } from '../../../test/services/temporal-server.ts';
import { logProgress } from '../../figures.ts';
import { addBatchOwners } from '../batches.ts';
import { type FilledLedger, fillLedger } from '../fill-ledger.ts';
import type { FilledHost, HostsReport, HostsSetup } from './fake-hosts.ts';
import type { LoadTarget } from './load-clients.ts';

/** A site of fake hosts in a few processes; all others are those of a site. */
export interface LoadSite {
  target: LoadTarget;
  /** Of the ledger. */
  pool: pg.Pool;
  stop(): Promise<void>;
}

const hostProcesses = 3;
const commandMs = 1000;
const signingKey = 'a key of the benchmark alone, 32 or more';
const root = fileURLToPath(new URL('../../..', import.meta.url));
const registrationDeadlineMs = 30 * 60_000;

/**
 * Partitions of a queue are for more tasks a second than one host takes, and each is a queue of its own to the server. Of polls that
 * wait, a frontend admits 1,200 by default, and a host has two.
 */
const temporalOptions = [
  'matching.numTaskqueueReadPartitions=1',
  'matching.numTaskqueueWritePartitions=1',
  'frontend.namespaceCount=100000',
].flatMap((value) => ['--dynamic-config-value', value]);

export async function openLoadSite(size: FilledLedger): Promise<LoadSite> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-knee-'));
  const ends: (() => Promise<unknown>)[] = [() => rm(folder, { recursive: true, force: true })];
  const stop = async (): Promise<void> => {
    for (const end of ends.reverse()) await end();
  };
  try {
    return { ...(await openParts(size, folder, ends)), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

type Ends = (() => Promise<unknown>)[];

async function openParts(size: FilledLedger, folder: string, ends: Ends): Promise<Omit<LoadSite, 'stop'>> {
  const attributes = Object.entries(searchAttributeTypes).flatMap(([name, type]) => ['--search-attribute', `${name}=${type}`]);
  const [postgres, temporal] = await Promise.all([
    startPostgresServer({ durable: true }),
    startTemporalServer([...attributes, ...temporalOptions]),
  ]);
  ends.push(postgres.stop, temporal.stop);
  await query(postgres.url, 'CREATE DATABASE knee');
  const databaseUrl = withDatabase(postgres.url, 'knee');
  await applyMigrations(databaseUrl);
  await fillLedger(databaseUrl, size, Date.now());
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 2 });
  pool.on('error', () => undefined);
  ends.push(() => pool.end());
  const keys = await addKeys(pool, await addBatchOwners(pool));
  await keepHousekeepingAway(temporal.address);
  const [port, operatorsPort] = [await freePort(), await freePort()];
  const apiUrl = `http://127.0.0.1:${port}/`;
  const env = {
    DATABASE_URL: databaseUrl,
    TEMPORAL_ADDRESS: temporal.address,
    BERTH_LOG_LEVEL: 'error',
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: apiUrl,
    BERTH_REPOSITORY: join(folder, 'repository'),
    BERTH_API_PORT: String(port),
    BERTH_OPERATORS_PORT: String(operatorsPort),
    // Limits of a client, which are not measured here.
    BERTH_RATE_PER_MINUTE: '0',
    BERTH_PLANS_PER_MINUTE: '0',
    BERTH_MAX_QUEUED: '1000000',
    BERTH_MAX_QUEUED_PER_OWNER: '1000000',
  };
  const api = startProcess('workers/api.ts', env);
  const control = startProcess('workers/control.ts', env);
  ends.push(
    () => api.stop(),
    () => control.stop(),
  );
  await untilReady(api, 'the API', async () => {
    if (!(await fetch(`http://127.0.0.1:${operatorsPort}/healthz`)).ok) throw new Error('not healthy');
  });
  const order = { temporal: temporal.address, namespace: 'default', apiUrl, folder, commandMs };
  await startHosts(order, await hostsOf(pool), [api, control], ends);
  return { target: { apiUrl, keys }, pool };
}

const startProcess = (script: string, env: Record<string, string>): Service =>
  startService(
    ['env', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), process.execPath, join(root, script)],
    'SIGTERM',
  );

async function addKeys(pool: pg.Pool, owners: readonly string[]): Promise<string[]> {
  const keys = owners.map(() => newApiKey());
  await pool.query(
    `INSERT INTO "ApiKey" (id, "ownerId", role, name, hash) SELECT 'key_knee_' || o, o, 'client', 'knee', h FROM unnest($1::text[], $2::text[]) k (o, h)`,
    [owners, keys.map(hashApiKey)],
  );
  return keys;
}

/**
 * What the ledger was filled with has no workflows, and the housekeeping would begin to end it as interrupted work. So it runs once,
 * as one that has come past all of that, and then waits for weeks; at a site it has 0.1 requests a second.
 */
async function keepHousekeepingAway(address: string): Promise<void> {
  const connection = await Connection.connect({ address });
  const last = '~';
  const work = { vm: last, migration: last, drain: last, reservation: last, build: last, host: last };
  try {
    await new Client({ connection }).workflow.start(workflowType.housekeeping, {
      taskQueue: controlQueue,
      workflowId: workflowId.housekeeping(),
      args: [1e5, { after: last, work }],
    });
  } finally {
    await connection.close();
  }
}

interface HostRow {
  id: HostId;
  address: string;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
  cpuModel: string;
  accelerator: 'kvm' | 'qemu';
  hypervisor: string;
  bootId: string;
  provider: string;
  images: string[];
  vms: string[];
}

/** The hosts of a filled ledger, as they have to describe themselves so that nothing of them changes. */
async function hostsOf(pool: pg.Pool): Promise<FilledHost[]> {
  const { rows } = await pool.query<HostRow>(
    `SELECT h.id, h.address, h.vcpus, h."memoryMiB", h."diskMiB", h."cpuModel", h.accelerator, h.hypervisor, h."bootId", h.provider,
       ARRAY(SELECT i."imageId" FROM "HostImage" i WHERE i."hostId" = h.id) AS images,
       ARRAY(SELECT v.id FROM "Vm" v WHERE v."hostId" = h.id AND v.state = 'running') AS vms
     FROM "Host" h ORDER BY h.id`,
  );
  return rows.map(({ id, vcpus, memoryMiB, diskMiB, vms, ...rest }) => ({
    facts: {
      ...rest,
      hostId: id,
      capacity: { vcpus, memoryMiB, diskMiB },
      reserve: { vcpus: 0, memoryMiB: 0, diskMiB: 0 },
      machine: `machine-of-${id}`,
      siteMachines: rows.length,
    },
    key: hostKeyOf(signingKey, id),
    vms,
  }));
}

/** Starts the processes of fake hosts, and waits until all have registered. */
async function startHosts(
  order: Omit<HostsSetup, 'hosts'>,
  hosts: FilledHost[],
  services: readonly Service[],
  ends: Ends,
): Promise<void> {
  const started = performance.now();
  const share = Math.ceil(hosts.length / hostProcesses);
  const groups = Array.from({ length: hostProcesses }, (_, n) => hosts.slice(n * share, (n + 1) * share));
  const children = groups.map((group) => startHostProcess({ ...order, hosts: group }));
  ends.push(async () => {
    for (const child of children) child.kill('SIGKILL');
  });
  const deadline = new Promise<never>((_, reject) =>
    setTimeout(() => reject(new Error('the fake hosts do not register')), registrationDeadlineMs).unref(),
  );
  let registered = 0;
  const done = children.map((child, index) => {
    const awaited = groups[index]!.length;
    return new Promise<void>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`a process of fake hosts ended with ${code}`)));
      if (awaited === 0) resolve();
      child.on('message', (report: HostsReport) => {
        registered += 1;
        if (registered % 500 === 0)
          logProgress(`${registered} hosts after ${((performance.now() - started) / 1000).toFixed(0)} s`);
        if (report.registered === awaited) resolve();
      });
    });
  });
  await Promise.race([Promise.all(done), deadline, ...services.map(({ failed }) => failed)]);
  logProgress(`${hosts.length} hosts have registered in ${((performance.now() - started) / 1000).toFixed(0)} s`);
}

function startHostProcess(order: HostsSetup): ChildProcess {
  const child = fork(fileURLToPath(new URL('./fake-hosts.ts', import.meta.url)), { execArgv: [] });
  child.send(order);
  return child;
}
