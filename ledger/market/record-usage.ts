import { usageRecordedType } from '../../model/books/usage-event.ts';
import { meteredSums, within } from '../../model/money/metered.ts';
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
  const intervals = within(await readVmUsage(tx, id, until), vm.toldMs, nowMs);
  const providers = [...new Set(intervals.map(({ provider }) => provider))];
  const usage = providers.map((provider) => ({
    provider,
    ...meteredSums(intervals.filter((one) => one.provider === provider)),
  }));
  const data = { vm: id, owner: vm.ownerId, task: vm.taskId, from: isoOf(vm.toldMs), until, usage };
  await writeEvent(tx, { type: usageRecordedType, subject: id, owner: vm.ownerId, time: until, data, n: nowMs }, 'reject');
  await tx.$executeRaw`UPDATE "Vm" SET "usageAt" = ${until}::timestamptz WHERE id = ${id}`;
}
