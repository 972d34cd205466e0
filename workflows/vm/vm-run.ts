import type { HostCalls } from '../../contracts/host-calls.ts';
import type { VmDesired } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { unreachableText } from '../durable/detail-texts.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isoNow } from '../durable/progress.ts';
import type { PersistingRun } from '../durable/retry-forever.ts';
import { requestTemplate } from '../image/request-template.ts';

/** The state of one standalone VM's saga. */
export interface VmRun extends PersistingRun {
  readonly id: VmId;
  readonly pace: number;
  /** Number of signals so far: each one says that the ledger has to be read again. */
  signalsReceived: number;
}

/** The activities on a host; an unreachable one is waited for, and the details say so. */
export const vmHost = (run: VmRun, host: HostId): HostCalls =>
  onHost(host, run.pace, { wait: (step) => run.progress.setDetail('silent', unreachableText(host, step)) });

/** For RetryForever. */
export const showRefusal =
  (run: VmRun) =>
  (error: unknown): void =>
    run.progress.setDetail('refused', `**a step is refused** and retried: ${taskErrorOf(error).message}`);

/** Retries a step on the ledger until it succeeds, because the saga can't continue without it. */
export const retryOnLedger = <T>(run: VmRun, act: () => Promise<T>): Promise<T> => run.retry.run(act, showRefusal(run));

export const loadDesired = (run: VmRun): Promise<VmDesired> => retryOnLedger(run, () => run.ledger.loadVmDesired(run.id));

/** @param diskHostAddress of the host that has its disks; null: the one where it runs */
export async function bootDomain(run: VmRun, vm: VmSpec, diskHostAddress: string | null): Promise<void> {
  const { bootMs, boot } = await vmHost(run, vm.host).ensureRunning(vm, diskHostAddress);
  requestTemplate(vm, boot, run.pace);
  await run.ledger.recordVmStarted(run.id, new Date(Date.now() - bootMs).toISOString(), boot, isoNow());
  run.progress.setAttributes({ state: 'running' });
}

/** Reports to an operator. A VM whose state can't become `stuck` keeps its state, and the details say so. */
export async function markStuck(run: VmRun, why: TaskError): Promise<void> {
  run.progress.setDetail('stuck', `**${run.id} is stuck** (${why.code}): ${why.message}. Put it right, then signal wakeUp`);
  try {
    await run.ledger.setVmState(run.id, 'stuck', why);
  } catch (error) {
    showRefusal(run)(error);
  }
}
