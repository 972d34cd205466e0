import { readDrainInput } from '../../ledger/drains/planner-input.ts';
import { readDrains } from '../../ledger/drains/read-drains.ts';
import { readEvents } from '../../ledger/events/read.ts';
import { readHosts } from '../../ledger/hosts/read-hosts.ts';
import { stepPlan } from '../../ledger/leases/execute-plan.ts';
import { readQuote } from '../../ledger/leases/read-quote.ts';
import { readSchedule } from '../../ledger/leases/read-schedule.ts';
import {
  readDrainCounts,
  readDrainPlans,
  readHostCounts,
  readMigrationMetrics,
  readOldestQueuedAt,
  readTaskCounts,
  readVmMetrics,
} from '../../ledger/metrics.ts';
import { readMigrations } from '../../ledger/migrations/read-migrations.ts';
import { lockPlacement } from '../../ledger/placement/lock-placement.ts';
import { placeWaiting } from '../../ledger/placement/place-queue.ts';
import { reservationDrain } from '../../ledger/reservations/accept-reservation.ts';
import { acceptReservationOnce } from '../../ledger/reservations/request-reservation.ts';
import { listActiveTasks, listTasksToCancel, listTasksWithoutWorkflow } from '../../ledger/tasks/housekeeping.ts';
import { readTasks } from '../../ledger/tasks/read-tasks.ts';
import { acceptTaskOnce } from '../../ledger/tasks/request-task.ts';
import { inTransaction, isoOf, type LedgerDeps, requestLimits, type Transaction } from '../../ledger/transaction.ts';
import { listVmsToNotify } from '../../ledger/vms/desired.ts';
import { readVms } from '../../ledger/vms/read-vms.ts';
import { TaskSpec } from '../../model/task.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import { filledImage, hostOf, ownerOf } from './fill-ledger.ts';

/** Undoes what a call wrote, so that the next one finds the same ledger. */
class Undo extends Error {}

async function undone(act: () => Promise<unknown>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!(error instanceof Undo)) throw error;
    return;
  }
  throw new Error('BUG: a call of the benchmark was to be undone and was not');
}

const undo = (): never => {
  throw new Undo();
};

const unlimited = Number.MAX_SAFE_INTEGER;
export const unlimitedQuotas = {
  bytes: unlimited,
  queued: unlimited,
  vms: unlimited,
  tasks: unlimited,
  vcpus: unlimited,
  memoryMiB: unlimited,
  diskMiB: unlimited,
  ports: unlimited,
  webhooks: unlimited,
  entries: unlimited,
  reservedVcpuHours: unlimited,
  horizonS: unlimited,
};
const resources = { vcpus: 1, memoryMiB: 1024, diskMiB: 512 };
const page = { limit: 100, after: null };
const dayMs = 86_400_000;

/** What is requests of the ledger, each by the code that the API and the control worker run. */
export function questions(deps: LedgerDeps, nowMs: number): Record<string, () => Promise<unknown>> {
  const { ledger } = deps;
  let requests = 0;
  const request = (path: string) => {
    requests += 1;
    return { ownerId: ownerOf(0), key: `bench-${requests}`, method: 'POST', path, fingerprint: 'bench' };
  };
  const acceptTask = (lease: object) => () =>
    undone(() => {
      const spec = TaskSpec.parse({ image: filledImage, command: ['true'], resources, lease });
      const task = {
        owner: ownerOf(0),
        spec,
        nowMs,
        keyId: 'key_bench',
        maxQueued: unlimited,
        quotas: unlimitedQuotas,
        publicPorts: { addresses: [], first: 1, last: 1 },
      };
      return acceptTaskOnce(ledger, request('/v1/tasks'), task, undo);
    });
  const inUndone = (work: (tx: Transaction) => Promise<unknown>) => () =>
    undone(() => inTransaction(ledger, (tx) => work(tx).then(undo), requestLimits));
  const startAt = isoOf(nowMs + 2 * dayMs);
  return {
    'accept.task': acceptTask({ kind: 'bestEffort', durationS: 3600 }),
    'accept.reservation': acceptTask({ kind: 'reservation', startAt, durationS: 3600 }),
    quote: () =>
      readQuote(ledger, {
        owner: ownerOf(0),
        image: filledImage,
        resources,
        nodes: 1,
        lease: { kind: 'reservation', startAt, durationS: 3600 },
        validS: 600,
        nowMs,
      }),
    schedule: () => readSchedule(ledger, nowMs),
    'plan.step': () => stepPlan(deps),
    'placement.pass': inUndone(async (tx) => {
      await lockPlacement(tx);
      await placeWaiting(deps, tx);
    }),
    'reserve.twoHosts': () =>
      undone(() =>
        acceptReservationOnce(
          ledger,
          request('/v1/reservations'),
          {
            wanted: { nodes: 2 },
            startAtMs: nowMs + 2 * dayMs,
            endAtMs: nowMs + 2 * dayMs + 3_600_000,
            purpose: 'bench',
            returnVms: false,
            owner: ownerOf(0),
            nowMs,
          },
          undo,
        ),
      ),
    'drain.question': async () =>
      planDrain(await readDrainInput(ledger, { ...reservationDrain, host: hostOf(0), deadlineMs: nowMs + 3_600_000, nowMs })),
    'list.tasks': () => readTasks(ledger, { owner: null }, page),
    'list.tasks.state': () => readTasks(ledger, { owner: null, state: 'succeeded' }, page),
    'list.tasks.owner': () => readTasks(ledger, { owner: ownerOf(0) }, page),
    'list.vms': () => readVms(ledger, null, page),
    'list.hosts': () => readHosts(ledger, page),
    'list.migrations': () => readMigrations(ledger, { owner: null }, page),
    'list.drains': () => readDrains(ledger, {}, page),
    'list.events': () => readEvents(ledger, { owner: null }, { after: 100n, limit: 100 }),
    'housekeeping.tasks': async () => {
      await listTasksWithoutWorkflow(deps, 10);
      await listActiveTasks(deps, null);
      await listTasksToCancel(deps, 10);
    },
    'housekeeping.vms': () => listVmsToNotify(deps, 10),
    metrics: async () => {
      const reads = [readTaskCounts, readVmMetrics, readMigrationMetrics, readHostCounts, readDrainCounts];
      for (const read of reads) await read(ledger);
      await readOldestQueuedAt(ledger);
      await readDrainPlans(ledger);
    },
  };
}
