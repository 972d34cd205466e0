import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { writeEvent } from '../../ledger/events/write-event.ts';
import { acceptWebhookOnce } from '../../ledger/webhooks/accept-webhook.ts';
import { readConfig } from '../../model/config.ts';
import { newId } from '../../model/ids.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { parseSealingKeys } from '../../model/webhooks/sealing.ts';
import { newWebhookSecret, webhookKeyOf } from '../../model/webhooks/signature.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { query, startPostgresServer, withDatabase } from '../../test/services/postgres-server.ts';
import { startTemporalServer } from '../../test/services/temporal-server.ts';
import { logProgress, percentile, printFigure, requireAtMost } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { type Load, processorSeconds } from './webhook-load.ts';

const endpoints = 100;
const deliveriesPerS = 200;
const warmUpS = 15;
const measuredS = 60;
const limitS = 1;

/**
 * `webhooks.lag.p99`: from the commit of an event until a living endpoint has taken it, where 100 endpoints, of an owner each, get 200
 * deliveries a second in total and half of them are dead: of these a third refuse connections, a third answer 500 and a third are
 * silent. A control worker, PostgreSQL that flushes to the disk, Temporal's development server and the receivers share this
 * machine. Living endpoints get their two events a second; those of the dead ones are written as well. The baseline is the same load
 * with no dead endpoint, in the same run. Each event is checked: in order, none left out.
 */
export async function benchWebhooks({ runs }: BenchOptions): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-bench-webhooks-'));
  const [postgres, temporal] = await Promise.all([startPostgresServer({ durable: true }), startTemporalServer()]);
  try {
    for (let run = 0; run < (runs ?? 1); run += 1) {
      const alive = await measure(postgres.url, temporal.address, folder, `alive_${run}`, 0);
      const half = await measure(postgres.url, temporal.address, folder, `half_${run}`, endpoints / 2);
      const detail = { ...half.detail, p50: half.p50, baselineCpu: alive.detail.cpu };
      printFigure('webhooks.lag.p99', half.p99, 's', alive.p99, detail);
      requireAtMost('webhooks.lag.p99', half.p99, limitS, 's');
    }
  } finally {
    await Promise.all([postgres.stop(), temporal.stop()]);
    await rm(folder, { recursive: true, force: true });
  }
}

interface Measured {
  p50: number;
  p99: number;
  detail: Record<string, unknown>;
}

async function measure(server: string, temporal: string, folder: string, name: string, dead: number): Promise<Measured> {
  await query(server, `CREATE DATABASE ${name}`);
  const url = withDatabase(server, name);
  await applyMigrations(url);
  const ledger = openLedger(url, 20);
  const keys = `1:${randomBytes(32).toString('base64')}`;
  const receivers = start('bench/money/webhook-receivers.ts', {});
  const lines = createInterface({ input: receivers.stdout! })[Symbol.asyncIterator]();
  const { port } = JSON.parse((await lines.next()).value!) as { port: number };
  const control = start('workers/control.ts', {
    DATABASE_URL: url,
    TEMPORAL_ADDRESS: temporal,
    BERTH_SIGNING_KEY: randomBytes(32).toString('hex'),
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
    BERTH_WEBHOOK_KEYS: keys,
    BERTH_ALLOW_INTERNAL_URLS: '1',
    BERTH_BUNDLE_FOLDER: folder,
    BERTH_LOG_LEVEL: 'warn',
  });
  control.stdout!.pipe(process.stderr);
  try {
    const owners = await addEndpoints(ledger, keys, port, dead);
    const cpu = () => processorSeconds(control.pid!);
    logProgress(`${name}: ${endpoints} endpoints, ${dead} dead; ${warmUpS} s of warm-up, ${measuredS} s measured`);
    const load = write(ledger, owners, dead);
    await pause(warmUpS * 1000);
    const [fromMs, before] = [Date.now(), cpu()];
    await pause(measuredS * 1000);
    const toMs = Date.now();
    const cores = (cpu() - before) / ((toMs - fromMs) / 1000);
    const written = await load.stop();
    await pause(5000);
    receivers.stdin!.end(`${JSON.stringify({ fromMs, toMs })}\n`);
    const taken = JSON.parse((await lines.next()).value!) as Load;
    const missing = taken.check.length === 0 ? written.living - taken.events : taken.check.join('; ');
    if (missing !== 0) throw new Error(`BUG: of ${written.living} events ${missing} are missing or out of order`);
    const lags = taken.lagsMs.toSorted((a, b) => a - b);
    const at = (share: number) => percentile(lags, share) / 1000;
    const perS = lags.length / ((toMs - fromMs) / 1000);
    return { p50: at(0.5), p99: at(0.99), detail: { perS, most: at(1), endpoints, dead, cpu: cores } };
  } finally {
    for (const child of [control, receivers]) {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
    await ledger.$disconnect();
  }
}

function start(program: string, env: Record<string, string>): ChildProcess {
  const file = join(import.meta.dirname, '..', '..', program);
  return spawn(process.execPath, [file], { env: { PATH: process.env.PATH, ...env }, stdio: ['pipe', 'pipe', 'inherit'] });
}

/** The dead ones come first. */
async function addEndpoints(ledger: Ledger, keys: string, port: number, dead: number): Promise<string[]> {
  const { api } = readConfig(['api'], { BERTH_REPOSITORY: folderOfNone });
  const owners: string[] = [];
  for (let index = 0; index < endpoints; index += 1) {
    const owner = newId('owner');
    await ledger.owner.create({ data: { id: owner, name: owner } });
    owners.push(owner);
    const kinds = [`http://127.0.0.1:1/`, `http://127.0.0.1:${port}/failing`, `http://127.0.0.1:${port}/silent`];
    const order = {
      owner,
      url: index < dead ? kinds[index % kinds.length]! : `http://127.0.0.1:${port}/${index}`,
      description: '',
      types: [],
      site: false,
      after: null,
      key: webhookKeyOf(newWebhookSecret())!,
      sealing: parseSealingKeys(keys),
      quotas: siteQuotas(api),
      nowMs: Date.now(),
    };
    const request = { ownerId: owner, key: null, method: 'POST', path: '/v1/webhooks', fingerprint: '' };
    await acceptWebhookOnce(ledger, request, order, () => ({ status: 201, text: null, location: null }));
  }
  return owners;
}

const folderOfNone = '/nonexistent';

/** Writes events until it is stopped: two a second of each living endpoint's owner, as many more as make the total, and of dead ones one. */
function write(ledger: Ledger, owners: readonly string[], dead: number): { stop: () => Promise<{ living: number }> } {
  let [stopping, living] = [false, 0];
  const alive = owners.slice(dead);
  const one = async (owner: string): Promise<void> => {
    const at = new Date().toISOString();
    const data = { port: newId('port'), vm: 'vm_1', owner, protocol: 'tcp' as const, at };
    const event = { subject: data.port, owner, time: at, data: { ...data, vmPort: 1, publicAddress: '', publicPort: 1 } };
    await writeEvent(ledger, { type: 'berth.port.published', ...event }, 'reject');
  };
  const began = performance.now();
  const loop = (async () => {
    for (let n = 0; !stopping; n += 1) {
      const dueMs = (n * 1000) / deliveriesPerS;
      const leftMs = dueMs - (performance.now() - began);
      if (leftMs > 0) await pause(leftMs);
      living += 1;
      await one(alive[n % alive.length]!);
      if (dead > 0 && n % 4 === 0) await one(owners[(n / 4) % dead]!);
    }
  })();
  return {
    stop: async () => {
      stopping = true;
      await loop;
      return { living };
    },
  };
}
