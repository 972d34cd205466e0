import type pg from 'pg';
import { stepPlan } from '../../ledger/leases/execute-plan.ts';
import type { LedgerDeps } from '../../ledger/transaction.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import { measureCall, sessionPids } from './processor-time.ts';
import { acceptOneTask } from './task-life.ts';

/** As many as the planner takes at a time; fewer where there is not twice the room for all batches: what is measured next needs some. */
const largestBatch = 256;
const batches = 3;
/** Without VMs: the networks of those that are filled have no address left for so many. */
const owners = 100;
const ownerOfBatch = (n: number): string => `owner_batch_${n}`;

/**
 * What a placement costs where many wait: tasks of many owners are accepted, and then placed by the planner's steps. Processor
 * milliseconds a placement, and placements a second of that time. The first batch compiles its code.
 */
export async function placeBatches(deps: LedgerDeps, pool: pg.Pool, mode: string): Promise<void> {
  await addBatchOwners(pool);
  const { rows } = await pool.query<{ free: number }>('SELECT sum(vcpus - "usedVcpus")::int AS free FROM "Host"');
  const tasksPerBatch = Math.min(largestBatch, Math.floor(rows[0]!.free / (2 * (batches + 1))));
  const each: { processorMs: number; wallMs: number }[] = [];
  for (let batch = 0; batch <= batches; batch += 1) {
    for (let n = 0; n < tasksPerBatch; n += 1) await acceptOneTask(deps, `batch-${batch}-${n}`, ownerOfBatch(n % owners));
    const placed = new Set<string>();
    const cost = await measureCall(await sessionPids(pool), async () => {
      while (placed.size < tasksPerBatch) {
        const before = placed.size;
        for (const id of (await stepPlan(deps)).placed) placed.add(id);
        if (placed.size === before) throw new Error(`${before} of ${tasksPerBatch} waiting tasks were placed, and no more`);
      }
    });
    // As their workflows do: no later step notifies them.
    await deps.ledger.task.updateMany({ where: { id: { in: [...placed] } }, data: { state: 'stagingIn' } });
    if (batch > 0) each.push({ processorMs: (cost.node + cost.postgres) / placed.size, wallMs: cost.wall / placed.size });
  }
  const ms = median(each.map(({ processorMs }) => processorMs));
  const perSecond = 1000 / median(each.map(({ wallMs }) => wallMs));
  logProgress(`${mode} a placement in batches ${ms.toFixed(2)} ms; ${perSecond.toFixed(0)} placements/s`);
  printFigure(`scale.${mode}.place`, ms, 'ms', null);
  printFigure(`scale.${mode}.place.rate`, perSecond, 'placements/s', null);
}

/** Owners without limits and without VMs. Returns their ids. */
export async function addBatchOwners(pool: pg.Pool): Promise<string[]> {
  await pool.query(
    `INSERT INTO "Owner" (id, name, "maxVms", "maxTasks", "maxQueued", "maxVcpus", "maxMemoryMiB", "maxDiskMiB")
     SELECT 'owner_batch_' || n, 'batch' || n, 1000000, 1000000, 1000000, 1000000, 1000000000, 1000000000 FROM generate_series(0, $1 - 1) n`,
    [owners],
  );
  return Array.from({ length: owners }, (_, n) => ownerOfBatch(n));
}
