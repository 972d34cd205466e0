import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Context } from '@temporalio/activity';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { guard } from '../../activities/failure.ts';
import { createLedgerActivities } from '../../activities/ledger/index.ts';
import { openLedger } from '../../ledger/client.ts';
import { controlQueue } from '../../model/temporal.ts';
import { controlLimits } from '../../workers/control-limits.ts';
import { strictBudget } from '../../workers/payload-budget.ts';
import { ledgerConfig } from './ledger-config.ts';

/**
 * A control worker that kills itself with SIGKILL at planned moments, each once: a file records the deaths that have
 * happened.
 */
export interface ControlOrder {
  address: string;
  namespace: string;
  databaseUrl: string;
  bundle: string;
  /** The file that records the deaths that have happened. */
  folder: string;
  /** The planned deaths, by workflow id. */
  deaths: Record<string, { call: string; when: 'before' | 'after' }>;
}

/**
 * A call by its name and, where it changes the state of a task, the state: this is the same in every process that repeats
 * the call.
 */
export const callOf = (name: string, args: unknown[]): string => (name === 'advanceTask' ? `${name} ${args[1]}` : name);

function dieAsPlanned(order: ControlOrder, when: 'before' | 'after', call: string): void {
  const workflowId = Context.current().info.workflowExecution?.workflowId ?? '';
  const death = order.deaths[workflowId];
  const memory = join(order.folder, workflowId);
  if (death === undefined || death.call !== call || death.when !== when || existsSync(memory)) return;
  writeFileSync(memory, call);
  process.kill(process.pid, 'SIGKILL');
}

function mortal<T extends object>(order: ControlOrder, activities: T): T {
  const wrapped = Object.entries(activities).map(([name, act]) => [
    name,
    async (...args: unknown[]) => {
      const call = callOf(name, args);
      dieAsPlanned(order, 'before', call);
      const result: unknown = await act(...args);
      dieAsPlanned(order, 'after', call);
      return result;
    },
  ]);
  return Object.fromEntries(wrapped) as T;
}

if (process.argv[1] === import.meta.filename) {
  const order = JSON.parse(process.argv[2] ?? '') as ControlOrder;
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  const connection = await NativeConnection.connect({ address: order.address });
  const ledger = openLedger(order.databaseUrl);
  const worker = await Worker.create({
    connection,
    namespace: order.namespace,
    taskQueue: controlQueue,
    workflowBundle: { codePath: order.bundle },
    dataConverter: strictBudget(),
    activities: mortal(order, guard(createLedgerActivities({ ledger, ...ledgerConfig(), clock: Date.now }))),
    ...controlLimits,
  });
  await worker.run();
  await ledger.$disconnect();
  await connection.close();
}
