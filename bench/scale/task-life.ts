import pg from 'pg';
import { createLedgerActivities } from '../../activities/ledger/index.ts';
import { acceptTaskOnce } from '../../ledger/tasks/request-task.ts';
import type { LedgerDeps } from '../../ledger/transaction.ts';
import type { TaskId } from '../../model/ids.ts';
import { TaskSpec } from '../../model/task.ts';
import { filledImage, ownerOf } from './fill-ledger.ts';
import { unlimitedQuotas } from './questions.ts';

/** The steps of a task on the ledger, from its acceptance to its end, as its workflow takes them; the hosts take no time. */

/** What this process has sent to PostgreSQL. */
interface SentCost {
  statements: number;
  /** BEGIN and COMMIT. */
  frames: number;
}

const sent: SentCost = { statements: 0, frames: 0 };

/** Counts what all connections of this process send from now on. */
export function countStatements(): void {
  const { query } = pg.Client.prototype;
  const counted = function (this: pg.Client, ...args: unknown[]) {
    const [first] = args;
    const text = typeof first === 'string' ? first : (first as { text?: string }).text;
    if (/^\s*(BEGIN|COMMIT|ROLLBACK)/i.test(text ?? '')) sent.frames += 1;
    else sent.statements += 1;
    return Reflect.apply(query, this, args);
  };
  pg.Client.prototype.query = counted as typeof query;
}

export const statementsSent = (): SentCost => ({ ...sent });

const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 64 };

/** A task of one VM, as the API accepts it. */
export async function acceptOneTask(deps: LedgerDeps, key: string, owner = ownerOf(0)): Promise<TaskId> {
  const spec = TaskSpec.parse({
    image: filledImage,
    command: ['true'],
    resources,
    lease: { kind: 'bestEffort', durationS: 600 },
  });
  const request = { ownerId: owner, key, method: 'POST', path: '/v1/tasks', fingerprint: 'bench' };
  const task = {
    owner,
    spec,
    nowMs: deps.clock(),
    keyId: 'key_bench',
    maxQueued: Number.MAX_SAFE_INTEGER,
    quotas: unlimitedQuotas,
    publicPorts: { addresses: [], first: 1, last: 1 },
  };
  const accepted = await acceptTaskOnce(deps.ledger, request, task, ({ id }) => ({
    status: 202,
    text: '',
    location: `/v1/tasks/${id}`,
  }));
  return accepted.id as TaskId;
}

export async function liveOneTask(deps: LedgerDeps, key: string): Promise<void> {
  const id = await acceptOneTask(deps, key);
  const ledger = createLedgerActivities(deps);
  const { vmIds } = await ledger.loadTask(id);
  // As its workflow: it waits for the signal of the pass that places it, or asks again.
  for (let placed = await ledger.reserveTask(id); !placed.placed; placed = await ledger.reserveTask(id));
  await ledger.advanceTask(id, 'stagingIn', []);
  await ledger.advanceTask(id, 'starting', [], 'creating');
  await ledger.advanceTask(id, 'running', [], 'running');
  await ledger.advanceTask(id, 'stagingOut', [], 'removing');
  const at = new Date(deps.clock()).toISOString();
  const vms = vmIds.map((vm) => ({ id: vm, startedAt: at, endedAt: at }));
  const timeline = [{ step: 'run', startedAt: at, endedAt: at }];
  await ledger.finishTask(
    id,
    { state: 'succeeded', exitCode: 0, error: null, outputs: [], bytesIn: 0, bytesOut: 0, vms, timeline },
    vmIds,
  );
}

const clients = 16;
const tasksPerRun = 96;

/** Tasks a second that the ledger alone takes from 16 clients. */
export async function taskRate(deps: LedgerDeps, run: number): Promise<number> {
  const started = performance.now();
  let left = tasksPerRun;
  const client = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      await liveOneTask(deps, `rate-${run}-${left}`);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return tasksPerRun / ((performance.now() - started) / 1000);
}
