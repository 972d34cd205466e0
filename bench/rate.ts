import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker } from '@temporalio/worker';
import { workflowId } from '../model/temporal.ts';
import { type FakeSite, openFakeSite } from '../test/sagas/fake-site.ts';
import { startPostgresServer } from '../test/services/postgres-server.ts';
import { startTemporalServer } from '../test/services/temporal-server.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { processorMsByProgram } from './scale/processor-time.ts';
import type { BareStep, skeletonWorkflow } from './skeleton-workflow.ts';

const tasksPerRun = 60;
const inFlight = 12;
/** Until each connection to the ledger has kept its statements, and PostgreSQL their plans for all parameters. */
const warmUps = 4;

/** A task's rate is at least this share of its skeleton's. */
const leastShare = 0.7;

/**
 * `task.rate`: tasks a second through API-accepted rows, Temporal, the ledger and host workers over the fake driver,
 * against skeletons: workflows with the same activities and upserts in the same order, all empty, through the same server
 * and the same number of workers. Both alternate. `processorMs`: of all processes, a task and a skeleton, which other work
 * on the machine changes less than the rates.
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
  const steps = await stepsOf(site, workflowId.task(first));
  const skeleton = await openSkeleton(site, steps);
  const rounds: { task: Rate; skeleton: Rate }[] = [];
  try {
    for (let run = -warmUps; run < runs; run += 1) {
      const round = {
        task: await measureRate(async () => void (await site.ended(await site.submit(order)))),
        skeleton: await measureRate(() => skeleton.execute()),
      };
      logProgress(
        `run ${Math.max(0, run + 1)}: ${describe(round.task, 'task')}; ${describe(round.skeleton, 'skeleton')}${run < 0 ? ' (warm-up)' : ''}`,
      );
      if (run >= 0) rounds.push(round);
    }
  } finally {
    await skeleton.stop();
  }
  const of = (side: 'task' | 'skeleton') => median(rounds.map((round) => round[side].perSecond));
  printFigure('task.rate', of('task'), 'tasks/s', of('skeleton'), {
    runs,
    tasks: tasksPerRun,
    inFlight,
    leastShare,
    processorMs: { task: costOf(rounds.map(({ task }) => task)), skeleton: costOf(rounds.map((round) => round.skeleton)) },
    steps: Object.fromEntries(stepKinds.map((kind) => [kind, steps.filter((step) => step === kind).length])),
  });
}

interface Rate {
  perSecond: number;
  /** For each of them, by program. */
  processorMs: Map<string, number>;
}

const sumOf = (processorMs: Map<string, number>): number => [...processorMs.values()].reduce((sum, ms) => sum + ms, 0);

const describe = ({ perSecond, processorMs }: Rate, what: string): string =>
  `${perSecond.toFixed(1)} ${what}s/s of ${sumOf(processorMs).toFixed(0)} ms`;

/** Medians over the rounds, of all and of each program. */
function costOf(rates: readonly Rate[]): Record<string, number> {
  const programs = new Set(rates.flatMap(({ processorMs }) => [...processorMs.keys()]));
  const of = (program: string) => Math.round(median(rates.map(({ processorMs }) => processorMs.get(program) ?? 0)));
  return {
    all: Math.round(median(rates.map(({ processorMs }) => sumOf(processorMs)))),
    ...Object.fromEntries([...programs].map((program): [string, number] => [program, of(program)]).filter(([, ms]) => ms > 0)),
  };
}

async function measureRate(once: () => Promise<void>): Promise<Rate> {
  const [started, before] = [performance.now(), await processorMsByProgram()];
  let left = tasksPerRun;
  const runner = async () => {
    while (left > 0) {
      left -= 1;
      await once();
    }
  };
  await Promise.all(Array.from({ length: inFlight }, runner));
  const perSecond = tasksPerRun / ((performance.now() - started) / 1000);
  const spent = [...(await processorMsByProgram())].map(([program, ms]): [string, number] => [
    program,
    (ms - (before.get(program) ?? 0)) / tasksPerRun,
  ]);
  return { perSecond, processorMs: new Map(spent) };
}

const stepKinds: readonly BareStep[] = ['local', 'remote', 'upsert'];

/** What a clean run of a task asked of Temporal, in order, read from its history. */
async function stepsOf(site: FakeSite, id: string): Promise<BareStep[]> {
  const { events } = await site.client.workflow.getHandle(id).fetchHistory();
  return (events ?? []).flatMap((event): BareStep[] => {
    if (event.workflowExecutionSignaledEventAttributes != null)
      throw new Error('BUG: the skeleton has no signals, and the task had');
    if (event.activityTaskScheduledEventAttributes != null) return ['remote'];
    if (event.upsertWorkflowSearchAttributesEventAttributes != null) return ['upsert'];
    return event.markerRecordedEventAttributes?.markerName === 'core_local_activity' ? ['local'] : [];
  });
}

async function openSkeleton(site: FakeSite, steps: BareStep[]) {
  const connection = await NativeConnection.connect({ address: site.address });
  const workflowBundle = await bundleWorkflowCode({
    workflowsPath: fileURLToPath(new URL('./skeleton-workflow.ts', import.meta.url)),
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
    async execute(): Promise<void> {
      started += 1;
      await site.client.workflow.execute<typeof skeletonWorkflow>('skeletonWorkflow', {
        taskQueue: 'bench.control',
        workflowId: `skeleton-${started}`,
        args: [queues[started % queues.length]!, steps],
      });
    },
    async stop(): Promise<void> {
      for (const worker of workers) worker.shutdown();
      await Promise.all(ended);
      await connection.close();
    },
  };
}
