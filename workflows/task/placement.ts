import { CancellationScope, condition, continueAsNew } from '@temporalio/workflow';
import type { TaskId } from '../../model/ids.ts';
import { signalName } from '../../model/temporal.ts';
import { rethrowUnlessCancelled } from '../durable/cancellation-scopes.ts';
import { refusalText } from '../durable/detail-texts.ts';
import { neverStarted } from '../durable/failure.ts';
import { isHistoryLong, isHistoryLongSince } from '../durable/history-limit.ts';
import { notifyPlanner, notifyReconciliation, notifyWaiters } from '../durable/other-workflows.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';
import { ImagePrefetcher } from '../image/image-prefetcher.ts';
import { newNode } from './node-location.ts';
import { stageIn } from './start-vms.ts';
import { newLeaseRun, type TaskNode, type TaskRun } from './task-run.ts';

/** Waits until the ledger has placed the task. A signal starts an attempt at once; the poll is for a lost signal. */
export async function waitForPlacement(run: TaskRun): Promise<TaskNode[]> {
  const { task, progress, pace } = run;
  const wakeUp = new WakeUp(signalName.placed);
  const prefetcher = new ImagePrefetcher(task.id, pace);
  for (;;) {
    wakeUp.reset();
    const answer = await run.ledger.reserveTask(task.id);
    if (answer.placed) {
      run.lease = { ...newLeaseRun(), term: answer.term };
      const hosts = [...new Set(answer.vms.map(({ host }) => host))];
      progress.setAttributes({ owner: task.owner, hosts, vms: task.vmIds, ...(task.fewUpserts ? { state: 'stagingIn' } : {}) });
      return answer.vms.map((vm, index) => newNode(run, vm, index));
    }
    progress.setAttributes({ owner: task.owner, state: 'queued' });
    progress.setDetail('step', `**queued** at position ${answer.position}; ${refusalText(answer.refusal)}`);
    if (answer.planActive) await notifyPlanner();
    await prefetcher.request(answer.prefetch, answer.term);
    await wakeUp.wait(timing(pace).queuePollMs);
    // Also where a signal arrived meanwhile.
    if (isHistoryLong()) await continueTask(run);
  }
}

/** The ledger holds all that the run of a queued task knows. */
const continueTask = ({ task, pace }: TaskRun): Promise<never> =>
  continueAsNew<(id: TaskId, pace: number) => Promise<unknown>>(task.id, pace);

/**
 * Stages the VMs in. Until their domains are started there is nothing to suspend: when the plan preempts the task, or a host
 * is unreachable, the task goes back to the queue. @returns false: it has to be requeued
 */
export async function stageInUnlessPreempted(run: TaskRun, nodes: TaskNode[]): Promise<boolean> {
  const staging = new CancellationScope();
  const watching = new CancellationScope();
  let preempted = false;
  const watched = watching
    .run(() => waitForPreemption(run))
    .then(() => {
      preempted = true;
      staging.cancel();
    }, rethrowUnlessCancelled);
  try {
    await staging.run(() => stageIn(run, nodes));
    return !preempted;
  } catch (error) {
    if (preempted || neverStarted(error)) return false;
    throw error;
  } finally {
    watching.cancel();
    await watched;
  }
}

/** Returns when the plan orders the suspension. */
async function waitForPreemption(run: TaskRun): Promise<void> {
  for (let ordersSeen = 0; ; ordersSeen = run.lease.ordersReceived) {
    await condition(() => run.lease.ordersReceived > ordersSeen);
    if ((await run.ledger.loadLeaseOrder(run.task.id)) === 'suspend') return;
  }
}

/**
 * Puts the task back into the queue before any domain was started: it is placed again, with a higher generation. The hosts'
 * reconciliation removes what was staged, as soon as they answer.
 */
export async function requeue(run: TaskRun, nodes: TaskNode[]): Promise<void> {
  run.progress.reset();
  await notifyWaiters(await run.ledger.requeueTask(run.task.id));
  run.state = 'queued';
  for (const { vm } of nodes) await notifyReconciliation(vm.host);
  // Where each placement is on a host that takes no steps, no loop above comes to its wait.
  if (isHistoryLongSince('task-requeue')) await continueTask(run);
}
