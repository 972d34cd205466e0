import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker } from '@temporalio/worker';
import { workflowId } from '../model/temporal.ts';
import { type FakeSite, openFakeSite } from '../test/sagas/fake-site.ts';
import { startPostgresServer } from '../test/services/postgres-server.ts';
import { startTemporalServer } from '../test/services/temporal-server.ts';
import type { emptyWorkflow } from './empty-workflow.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const tasksPerRun = 60;
const inFlight = 12;

/**
 * `task.rate`: tasks a second through API-accepted rows, Temporal, the ledger and host workers over the fake driver,
 * against empty workflows of as many activities through the same server and the same number of workers.
 */
export async function benchRate({ runs }: BenchOptions): Promise<void> {
  const [postgres, temporal] = await Promise.all([startPostgresServer(), startTemporalServer()]);
  process.env.DATABASE_URL = postgres.url;
  process.env.TEMPORAL_ADDRESS = temporal.address;
  try {
    const site = await openFakeSite();
    try {
      await compare(site, Math.max(runs ?? 5, 3));
    } finally {
      await site.stop();
    }
  } finally {
    await Promise.all([postgres.stop(), temporal.stop()]);
  }
}

async function compare(site: FakeSite, runs: number): Promise<void> {
  const first = await site.submit();
  await site.ended(first);
  const image = (await site.ledger.task.findUniqueOrThrow({ where: { id: first } })).spec as { image: string };
  const order = { image: image.image };
  const counted = await activitiesOf(site, workflowId.task(first));
  const baseline = await openBaseline(site);
  const ours: number[] = [];
  const empty: number[] = [];
  try {
    for (let run = -1; run < runs; run += 1) {
      const rates = {
        ours: await rate(async () => void (await site.ended(await site.submit(order)))),
        empty: await rate(() => baseline.execute(counted.remote, counted.local)),
      };
      logProgress(
        `run ${run + 1}: ${rates.ours.toFixed(1)} tasks/s, ${rates.empty.toFixed(1)} empty workflows/s${run < 0 ? ' (warm-up)' : ''}`,
      );
      if (run >= 0) {
        ours.push(rates.ours);
        empty.push(rates.empty);
      }
    }
  } finally {
    await baseline.stop();
  }
  printFigure('task.rate', median(ours), 'tasks/s', median(empty), { runs, tasks: tasksPerRun, inFlight, activities: counted });
}

async function rate(once: () => Promise<void>): Promise<number> {
  const started = performance.now();
  let left = tasksPerRun;
  const runner = async () => {
    while (left > 0) {
      left -= 1;
      await once();
    }
  };
  await Promise.all(Array.from({ length: inFlight }, runner));
  return tasksPerRun / ((performance.now() - started) / 1000);
}

/** The number of activities in a clean run of a task, read from its history. */
async function activitiesOf(site: FakeSite, id: string): Promise<{ remote: number; local: number }> {
  const history = await site.client.workflow.getHandle(id).fetchHistory();
  const events = history.events ?? [];
  return {
    remote: events.filter((event) => event.activityTaskScheduledEventAttributes != null).length,
    local: events.filter((event) => event.markerRecordedEventAttributes?.markerName === 'core_local_activity').length,
  };
}

async function openBaseline(site: FakeSite) {
  const connection = await NativeConnection.connect({ address: site.address });
  const workflowBundle = await bundleWorkflowCode({
    workflowsPath: fileURLToPath(new URL('./empty-workflow.ts', import.meta.url)),
    logger: new DefaultLogger('ERROR'),
  });
  const activities = { noop: async () => {} };
  const common = { connection, namespace: site.namespace, activities };
  const queues = ['bench.1', 'bench.2', 'bench.3'];
  const workers = await Promise.all([
    Worker.create({ ...common, taskQueue: 'bench.control', workflowBundle }),
    ...queues.map((taskQueue) => Worker.create({ ...common, taskQueue })),
  ]);
  const ended = workers.map((worker) => worker.run());
  let started = 0;
  return {
    async execute(remote: number, local: number): Promise<void> {
      started += 1;
      await site.client.workflow.execute<typeof emptyWorkflow>('emptyWorkflow', {
        taskQueue: 'bench.control',
        workflowId: `nothing-${started}`,
        args: [queues[started % queues.length]!, remote, local],
      });
    },
    async stop(): Promise<void> {
      for (const worker of workers) worker.shutdown();
      await Promise.all(ended);
      await connection.close();
    },
  };
}
