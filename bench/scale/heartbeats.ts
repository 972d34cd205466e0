import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { rollUpLoads } from '../../ledger/load/roll-up.ts';
import { batching } from '../../model/load/load.ts';
import { startApi } from '../../test/api/running-api.ts';
import { startPostgresServer } from '../../test/services/postgres-server.ts';
import { logProgress, percentile, printFigure, requireAtMost } from '../figures.ts';
import { sessionsNs } from './processor-time.ts';

/** Of one processor: of the API, the control workers and PostgreSQL. */
const limitPercent = 20;
const hourMs = 3_600_000;
const heartbeatS = 10;

/**
 * `npm run bench -- scale --modes heartbeats-1000x20`: heartbeats of a thousand hosts of twenty VMs every ten seconds, for two minutes, to a
 * real API over PostgreSQL, from another process. Prints what they cost of a processor. What becomes of a batch later, minutes and hours, is
 * measured over all of them and counted for each second. They reach no workflow: Temporal has nothing to do for them.
 */
export async function benchHeartbeats(mode: string, runs: number | null): Promise<void> {
  const found = /^heartbeats-(\d+)x(\d+)$/.exec(mode);
  if (found === null) throw new Error(`--modes: found ${mode}; expected heartbeats-HOSTSxVMS, VMs being those of each host`);
  const [hosts, vms] = [Number(found[1]), Number(found[2])];
  const seconds = 60 * (runs ?? 2);
  const postgres = await startPostgresServer();
  process.env.DATABASE_URL = postgres.url;
  try {
    const api = await startApi();
    try {
      const names = Array.from({ length: hosts }, (_, n) => `host-${String(n).padStart(5, '0')}`);
      await api.ledger.$executeRaw`
        INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
        SELECT h.id, '198.18.' || (h.n / 256) || '.' || (h.n % 256), 'site', 'up', 128, 131072, 1000000, 'c', 'kvm', 'q', 'b', now()
        FROM unnest(${names}::text[]) WITH ORDINALITY AS h(id, n)`;
      const pids = async (): Promise<number[]> =>
        (
          await api.ledger.$queryRaw<{ pid: number }[]>`
            SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`
        ).map(({ pid }) => pid);
      const order = (forS: number) => ({ base: api.base, signingKey: api.signingKey, hosts: names, vms, seconds: forS });
      // Code is compiled, and sessions are open.
      await sendFrom(order(10));
      const [sessions, cpu, began] = [await pids(), process.cpuUsage(), performance.now()];
      const before = await sessionsNs(sessions);
      const { batches, refused, latencies } = await sendFrom(order(seconds));
      const passedS = (performance.now() - began) / 1000;
      const { user, system } = process.cpuUsage(cpu);
      const postgresPercent = (((await sessionsNs(sessions)) - before) / 1e9 / passedS) * 100;
      const apiPercent = ((user + system) / 1e6 / passedS) * 100;
      if (refused > 0) throw new Error(`${refused} of ${batches + refused} batches were refused`);
      const rollUp = await rollUpCost(api.ledger, sessions);
      const rollUpPercent = (rollUp.ms / rollUp.batches) * (hosts / (heartbeatS * batching.heartbeats)) * 0.1;
      const detail = { batches, passedS, apiPercent, postgresPercent, rollUpPercent, p99Ms: percentile(latencies, 0.99) };
      logProgress(`${mode}: ${JSON.stringify(detail)}`);
      const total = apiPercent + postgresPercent + rollUpPercent;
      printFigure(`scale.${mode}`, total, '% of a processor', null, { ...detail, limitPercent });
      requireAtMost(`scale.${mode}`, total, limitPercent, '% of a processor');
    } finally {
      await api.end();
    }
  } finally {
    await postgres.stop();
  }
}

interface Sent {
  batches: number;
  refused: number;
  latencies: number[];
}

async function sendFrom(order: object): Promise<Sent> {
  const file = fileURLToPath(new URL('./heartbeat-sender.ts', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [file, JSON.stringify(order)], { maxBuffer: 2 ** 26 });
  return JSON.parse(stdout) as Sent;
}

/** Processor ms of the control worker and PostgreSQL to make minutes and hours of all batches that there are. */
async function rollUpCost(
  ledger: Parameters<typeof rollUpLoads>[0],
  sessions: readonly number[],
): Promise<{ ms: number; batches: number }> {
  const batches = await ledger.loadChunk.count({ where: { detail: 'sample' } });
  const [before, cpu] = [await sessionsNs(sessions), process.cpuUsage()];
  while ((await rollUpLoads(ledger, Date.now() + 3 * hourMs)) === 'more');
  const { user, system } = process.cpuUsage(cpu);
  return { ms: (user + system) / 1000 + ((await sessionsNs(sessions)) - before) / 1e6, batches: Math.max(1, batches) };
}
