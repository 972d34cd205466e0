import { parentPort } from 'node:worker_threads';
import { makePlan, type PlanAnswer, type PlanOrder } from './plan-kinds.ts';

/** The thread that makes plans of large sites (plan-thread.ts): it has no connection, and answers orders one at a time. */

if (parentPort === null) throw new Error('BUG: planning-thread.ts was started as a process; it is a thread of another');
const port = parentPort;

port.on('message', ({ id, kind, read, input }: PlanOrder) => {
  port.postMessage(answer());

  function answer(): PlanAnswer {
    try {
      return { id, plan: makePlan(kind, read, input) };
    } catch (error) {
      return { id, failed: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
  }
});
