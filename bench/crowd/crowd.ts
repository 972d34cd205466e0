import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { startApi, type TaskBody } from '../../test/api/running-api.ts';
import { startPostgresServer } from '../../test/services/postgres-server.ts';
import { logProgress, percentile, printFigure, requireAtMost } from '../figures.ts';
import type { BenchOptions } from '../options.ts';

const perSecond = 20;
const limitMs = 250;

/**
 * `npm run bench -- crowd --modes SECONDS`: `GET /v1/tasks/{id}` by one owner, twenty a second in an open loop, while another
 * client sends the worst bodies, patterns, followers and quotes that it may. The 99th percentile, against that without the other; above its limit the benchmark fails.
 */
export async function benchCrowd({ modes }: BenchOptions): Promise<void> {
  const seconds = Number(modes?.[0] ?? 300);
  const postgres = await startPostgresServer();
  process.env.DATABASE_URL = postgres.url;
  try {
    // The limits of a site: the tests' API has none on requests a minute.
    const api = await startApi({ BERTH_RATE_PER_MINUTE: '6000' });
    try {
      await api.addImage('debian-12');
      for (let host = 0; host < 8; host += 1) await api.addHost(`host-${host}`);
      const submit = async (party: typeof api.alice) => {
        const json = { image: 'debian-12', command: ['true'] };
        return (await api.call<TaskBody>(party, 'POST', '/v1/tasks', { json })).body.id;
      };
      const [mine, theirs] = [await submit(api.bob), await submit(api.alice)];
      const read = async (forS: number): Promise<number[]> => {
        const url = new URL(`/v1/tasks/${mine}`, api.base).href;
        const reader = start('./reader.ts', { url, key: api.bob.key, perSecond, seconds: forS });
        const [answers] = (await once(reader, 'message')) as [{ ms: number; status: number }[]];
        const failed = answers.filter(({ status }) => status !== 200);
        if (failed.length > 0) throw new Error(`${failed.length} of ${answers.length} reads failed: ${failed[0]!.status}`);
        return answers.map(({ ms }) => ms).toSorted((a, b) => a - b);
      };
      const alone = await read(Math.min(30, seconds));
      const abuser = start('./abuser.ts', { base: api.base, key: api.alice.key, taskId: theirs });
      const crowded = await read(seconds);
      abuser.postMessage('over');
      const [counts] = await once(abuser, 'message');
      logProgress(`the other client was answered: ${JSON.stringify(counts)}`);
      const detail = { seconds, reads: crowded.length, medianMs: percentile(crowded, 0.5), maxMs: crowded.at(-1), limitMs };
      const p99 = percentile(crowded, 0.99);
      printFigure('crowd.p99', p99, 'ms', percentile(alone, 0.99), detail);
      requireAtMost('crowd.p99', p99, limitMs, 'ms');
    } finally {
      await api.end();
    }
  } finally {
    await postgres.stop();
  }
}

const start = (file: string, workerData: object): Worker => new Worker(new URL(file, import.meta.url), { workerData });
