import { usageRecordedType } from '../../model/books/usage-event.ts';
import type { MeteredInterval } from '../../model/money/cost.ts';
import { meteredIntervals, meteredSums, within } from '../../model/money/metered.ts';
import type { Usage } from '../../model/task.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { batch } from '../housekeeping.ts';
import { inTransaction, isoOf, type Transaction } from '../transaction.ts';
import { readVmUsage } from './lease-usage.ts';

/** How often the usage of a VM that goes on is told. */
const intervalMs = 3_600_000;

/**
 * Tells the usage of VMs that go on, each in a transaction of its own: since its start, or since it was told last. What changes in
 * between is told with the change. Not of builds and templates, which are nobody's lease.
 * @returns how many were due; at most a hundred, and the caller asks again
 */
export async function recordDueUsage(ledger: Ledger, clock: () => number): Promise<number> {
  const due = await ledger.$queryRaw<{ id: string }[]>`
    SELECT id FROM "Vm" WHERE "startedAt" IS NOT NULL AND state NOT IN ('removing', 'removed', 'stuck') AND "leaseId" IS NOT NULL
      AND COALESCE("usageAt", "startedAt") <= ${isoOf(clock() - intervalMs)}::timestamptz
    ORDER BY COALESCE("usageAt", "startedAt"), id LIMIT ${batch}`;
  for (const { id } of due) await inTransaction(ledger, (tx) => recordUsage(tx, id, clock()));
  return due.length;
}

interface ToldVm {
  ownerId: string;
  taskId: string | null;
  toldMs: number;
  over: boolean;
}

async function recordUsage(tx: Transaction, id: string, nowMs: number): Promise<void> {
  const rows = await tx.$queryRaw<ToldVm[]>`
    SELECT "ownerId", "taskId", (EXTRACT(EPOCH FROM COALESCE("usageAt", "startedAt")) * 1000)::float8 AS "toldMs",
      state IN ('removing', 'removed', 'stuck') AS over
    FROM "Vm" WHERE id = ${id} FOR NO KEY UPDATE`;
  const [vm] = rows;
  // Another control worker has told it, or it has ended.
  if (vm === undefined || vm.over || vm.toldMs > nowMs - intervalMs) return;
  const until = isoOf(nowMs);
  const { ownerId: owner, taskId: task, toldMs } = vm;
  await writeUsage(tx, { vm: id, owner, task, fromMs: toldMs, untilMs: nowMs }, await readVmUsage(tx, id, until));
  await tx.$executeRaw`UPDATE "Vm" SET "usageAt" = ${until}::timestamptz WHERE id = ${id}`;
}

interface ToldInterval {
  vm: string;
  owner: string;
  task: string | null;
  fromMs: number;
  untilMs: number;
}

async function writeUsage(
  tx: Transaction,
  { vm, owner, task, fromMs, untilMs }: ToldInterval,
  all: readonly MeteredInterval[],
): Promise<void> {
  const byProvider = Map.groupBy(within(all, fromMs, untilMs), ({ provider }) => provider);
  const usage = [...byProvider].map(([provider, intervals]) => ({ provider, ...meteredSums(intervals) }));
  const until = isoOf(untilMs);
  const data = { vm, owner, task, from: isoOf(fromMs), until, usage };
  await writeEvent(tx, { type: usageRecordedType, subject: vm, owner, time: until, data, n: untilMs }, 'reject');
}

/** VMs that end together, with what their disks take, and until when their usage was told. */
export interface EndedVms {
  owner: string;
  task: string | null;
  /** All of it. */
  usage: readonly Usage[];
  disks: readonly { id: string; keptMiB: number; usageAt: Date | string | null }[];
}

/**
 * Tells the rest of the usage of VMs that were told hourly, in the transaction that ends them: so hourly events have all of it. Where
 * none was told, the event of the end has it alone.
 */
export async function recordLastUsage(tx: Transaction, { owner, task, usage, disks }: EndedVms, nowMs: number): Promise<void> {
  if (disks.every(({ usageAt }) => usageAt === null)) return;
  for (const { id: vm, keptMiB, usageAt } of disks) {
    const own = usage.filter((one) => one.vm === vm);
    if (own[0] === undefined) continue;
    const fromMs = usageAt === null ? Date.parse(own[0].startedAt) : new Date(usageAt).getTime();
    if (fromMs >= nowMs) continue;
    await writeUsage(tx, { vm, owner, task, fromMs, untilMs: nowMs }, meteredIntervals(own, keptMiB, nowMs));
  }
}
