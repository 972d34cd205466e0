import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { CustomizeVm, HostActivities } from '../../contracts/host.ts';
import type { VmDesired, VmLocation } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import type { VmSpec } from '../../model/vm.ts';
import type { VmOperation } from '../../model/vm-request.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { codeOf, neverStarted, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyPlanner, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { ImagePrefetcher } from '../image/image-prefetcher.ts';
import { requestTemplate } from '../image/request-template.ts';
import { restore, type SuspensionRun, suspend } from './suspend-restore.ts';

const placedSignal = defineSignal(signalName.placed);
const operationRequestedSignal = defineSignal(signalName.operationRequested);
const locationChangedSignal = defineSignal(signalName.locationChanged);

interface VmRun extends SuspensionRun {
  id: VmId;
  progress: Progress;
  /** Grows with every signal: the ledger says what it was about. */
  signalsReceived: number;
}

/**
 * One VM that stands alone, from the queue to its removal. The ledger holds what is wanted of it; a signal says when to
 * look.
 *
 *   step       on its host                          undone by
 *   (reserve)  placed by the ledger                 finishVm
 *   stageIn    data disk with files, overlay        removeVm
 *   boot       domain, agent, identity              (with stageIn)
 *   customize  host key, user, swap, commands       (with stageIn)
 *   serve      pause, resume, suspend, restore, reboot, one after the other, each its own steps
 *   remove     the undo above, when its owner wants it, its lease ends, or it could not be made
 *
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function runVm(id: VmId, pace = 1): Promise<void> {
  const run = openRun(id, pace);
  const desired = await run.retry.run(
    () => run.ledger.loadVmDesired(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  run.progress.setAttributes({ owner: desired.owner, state: desired.state, vms: [id] });
  if (desired.state === 'removed') return;
  let error: TaskError | null = null;
  if (['pending', 'reserved', 'creating'].includes(desired.state)) error = await cancelOnRemoval(run, desired, () => create(run));
  error ??= await serveOperations(run);
  await CancellationScope.nonCancellable(() => remove(run, error));
}

function openRun(id: VmId, pace: number): VmRun {
  const progress = new Progress();
  const run: VmRun = {
    id,
    pace,
    progress,
    signalsReceived: 0,
    ledger: onLedger(pace),
    retry: new RetryForever(pace),
    onUnreachable: (host, step) =>
      progress.setDetail('silent', `**${host} does not answer** since ${isoNow()}; ${step} waits for its worker`),
    onRefusal: (error) => progress.setDetail('refused', `**a step is refused**, and tried again: ${taskErrorOf(error).message}`),
  };
  for (const signal of [placedSignal, operationRequestedSignal, locationChangedSignal])
    setHandler(signal, () => {
      run.signalsReceived += 1;
    });
  return run;
}

/** Runs an act; ends it as soon as its owner wants the VM's removal. Returns why it came to nothing, or null. */
async function cancelOnRemoval(run: VmRun, desired: VmDesired, act: () => Promise<void>): Promise<TaskError | null> {
  const scope = new CancellationScope();
  let over = desired.remove;
  const watching = (async () => {
    for (let heard = run.signalsReceived; !over; heard = run.signalsReceived) {
      await condition(() => over || run.signalsReceived > heard);
      if (!over && (await loadDesired(run)).remove) scope.cancel();
    }
  })();
  try {
    if (!over) await scope.run(act);
    return null;
  } catch (error) {
    if (isCancellation(error)) return null;
    return taskErrorOf(error);
  } finally {
    over = true;
    await watching;
  }
}

/** Queue, disks, domain and guest, as often as it takes to find a host that answers. */
async function create(run: VmRun): Promise<void> {
  for (;;) {
    const vm = await waitForPlacement(run);
    try {
      await provision(run, vm);
      return;
    } catch (error) {
      if (!neverStarted(error)) throw error;
    }
    // Nothing was asked of its hypervisor: what was staged is removed by that host's reconciliation, when it answers.
    await notifyWaiters(await run.ledger.requeueVm(run.id));
    await notify(workflowId.reconcile(vm.host), signalName.wakeUp);
  }
}

/** Waits until the ledger has placed it. A signal says when to ask; the poll is for one that was lost. */
async function waitForPlacement(run: VmRun): Promise<VmSpec> {
  const prefetcher = new ImagePrefetcher(run.id, run.pace);
  for (;;) {
    const { signalsReceived: heard } = run;
    const answer = await run.ledger.reserveVm(run.id);
    if (answer.placed) {
      run.progress.setAttributes({ hosts: [answer.vm.host] });
      return answer.vm;
    }
    const reasons = Object.entries(answer.refusal.failed).map(([filter, hosts]) => `${hosts} failed ${filter}`);
    run.progress.setDetail('step', `**waits** for a host; of ${answer.refusal.hosts} ${reasons.join(', ') || 'none was asked'}`);
    if (answer.planActive) await notifyPlanner();
    await prefetcher.request(answer.prefetch, answer.term);
    await condition(() => run.signalsReceived > heard, timing(run.pace).queuePollMs);
  }
}

async function provision(run: VmRun, vm: VmSpec): Promise<void> {
  const { progress, ledger } = run;
  const staging = onHost(vm.host, run.pace, 'throw');
  const order = await ledger.issueVmSetup(run.id);
  await progress.trackStep('stageIn', [vm.host], async () => {
    const { image } = await staging.stageIn({
      vm: order.vm,
      inputs: order.files.map(({ input }) => input),
      limits: { outsideBytes: 0, outsideSeconds: 0, allowInternal: false },
    });
    if (image !== 'cache') await ledger.recordImageCached(vm.host, vm.image.id);
  });
  const host = vmHost(run, vm.host);
  await ledger.setVmState(run.id, 'creating');
  await progress.trackStep('boot', [vm.host], () => bootDomain(run, host, order.vm));
  await progress.trackStep('customize', [vm.host], async () => {
    await ledger.recordVmCustomized(run.id, await customize(run, order));
  });
}

/** It runs already, so it may be moved meanwhile: then it is set up where it is. What was done isn't done again. */
async function customize(run: VmRun, first: CustomizeVm): Promise<string> {
  for (let order = first; ; ) {
    try {
      return (await vmHost(run, order.vm.host).customizeVm(order)).hostKey;
    } catch (error) {
      if (codeOf(error) !== 'stale-generation') throw error;
      await waitUntilSettled(run, async () => undefined);
      const next = await run.ledger.issueVmSetup(run.id);
      if (next.vm.generation === order.vm.generation) throw error;
      order = next;
    }
  }
}

async function bootDomain(run: VmRun, host: HostActivities, vm: VmSpec): Promise<void> {
  const { bootMs, boot } = await host.ensureRunning(vm);
  requestTemplate(vm, boot, run.pace);
  await run.ledger.recordVmStarted(run.id, new Date(Date.now() - bootMs).toISOString(), boot);
  run.progress.setAttributes({ state: 'running' });
}

const vmHost = (run: VmRun, host: HostId): HostActivities =>
  onHost(host, run.pace, { wait: (step) => run.onUnreachable(host, step) });

/** What is wanted of it; without that nothing can go on. */
const loadDesired = (run: VmRun): Promise<VmDesired> => run.retry.run(() => run.ledger.loadVmDesired(run.id), run.onRefusal);

/** Does what its owner asks for, one thing after the other. @returns why it is to be removed; null: its owner wants it. */
async function serveOperations(run: VmRun): Promise<TaskError | null> {
  for (;;) {
    const { signalsReceived: heard } = run;
    const desired = await loadDesired(run);
    run.progress.setAttributes({ state: desired.state });
    if (desired.remove) return null;
    const leftMs = desired.leaseEndsAt === null ? null : Date.parse(desired.leaseEndsAt) - Date.now();
    if (leftMs !== null && leftMs <= 0) return { code: 'lease-expired', message: `Its lease ended at ${desired.leaseEndsAt}` };
    if (desired.operation !== null) {
      const operation = desired.operation;
      await runOperation(run, operation, desired);
      continue;
    }
    run.progress.setDetail('step', `**${desired.state}** since ${isoNow()}`);
    const pause = timing(run.pace).vmPollMs;
    await condition(() => run.signalsReceived > heard, leftMs === null ? pause : Math.min(pause, leftMs));
    if (workflowInfo().continueAsNewSuggested && run.signalsReceived === heard)
      await continueAsNew<typeof runVm>(run.id, run.pace);
  }
}

/** One operation, to its end: it has happened, or its owner is told why not. */
async function runOperation(run: VmRun, operation: VmOperation, desired: VmDesired): Promise<void> {
  run.progress.setDetail('step', `**${operation}** since ${isoNow()}`);
  let to: 'running' | 'paused' | null = null;
  let error: TaskError | null = null;
  try {
    if (operation === 'suspend') error = await suspend(run, run.id);
    else if (operation === 'restore') error = await restore(run, run.id);
    else if (operation === 'reboot' && desired.state !== 'running') await startStopped(run);
    else {
      const { vm } = await run.ledger.beginOperation(run.id, operation);
      const host = vmHost(run, vm.host);
      const pause = () => host.pauseVm(vm);
      const resume = () => host.resumeVm(vm);
      if (operation === 'pause') await withUndo(run, pause, resume);
      else if (operation === 'resume') await withUndo(run, resume, pause);
      else await host.rebootVm(vm);
      to = operation === 'pause' ? 'paused' : 'running';
    }
  } catch (failed) {
    error = taskErrorOf(failed);
    const why = error;
    if (why.code === 'vm-lost') await run.retry.run(() => run.ledger.recordVmMissing(run.id, why), run.onRefusal);
  }
  const ended = () => run.ledger.endOperation(run.id, operation, error === null ? to : null, error);
  for (const { host, number } of await run.retry.run(ended, run.onRefusal))
    await notify(workflowId.drain(host, number), signalName.orderChanged);
}

/** What was refused may have taken effect all the same: the guest is brought back to where the ledger has it. */
async function withUndo(run: VmRun, act: () => Promise<void>, undo: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (codeOf(error) !== 'vm-lost')
      await run.retry.run(undo, (again) => {
        if (codeOf(again) === 'vm-lost') throw again;
        run.onRefusal(again);
      });
    throw error;
  }
}

/** A VM whose domain has gone boots again from its disks. */
async function startStopped(run: VmRun): Promise<void> {
  try {
    const { vm } = await run.ledger.beginStart(run.id);
    await bootDomain(run, vmHost(run, vm.host), vm);
  } catch (error) {
    await markStuck(run, taskErrorOf(error));
    throw error;
  }
}

/** For an operator. A VM in no state to be stuck stays as it is, and the details say so. */
async function markStuck(run: VmRun, why: TaskError): Promise<void> {
  run.progress.setDetail('stuck', `**${run.id} is stuck** (${why.code}): ${why.message}. Put it right, then signal wakeUp`);
  try {
    await run.ledger.setVmState(run.id, 'stuck', why);
  } catch (error) {
    run.onRefusal(error);
  }
}

/** Removes what there is, for ever: it is nobody else's to. */
async function remove(run: VmRun, error: TaskError | null): Promise<void> {
  const { ledger, id, progress, retry } = run;
  progress.setDetail('step', `**removing** since ${isoNow()}${error === null ? '' : `: ${error.message}`}`);
  let endedAt: string | null = null;
  await retry.run(
    async () => {
      const place = await settleForRemoval(run);
      if (place.host === null || place.state === 'pending' || place.state === 'removed') return;
      await vmHost(run, place.host).removeVm(id, place.generation);
      endedAt ??= isoNow();
      if (place.home !== null && place.home !== place.host) await vmHost(run, place.home).removeDisks(id, place.generation);
    },
    (error) => markStuck(run, taskErrorOf(error)),
  );
  await notifyWaiters(await retry.run(() => ledger.finishVm(id, { endedAt, error }), run.onRefusal));
  progress.setAttributes({ state: 'removed' });
}

/** Where it is once nobody moves it. @param meanwhile what to do about a migration that is under way */
async function waitUntilSettled(run: VmRun, meanwhile: (migration: string) => Promise<void>): Promise<VmLocation> {
  const { initialMs: first, maxMs: longest } = timing(run.pace).ambiguousBackoff;
  let location = await run.ledger.loadVmLocation(run.id);
  for (let backoffMs = first; location.migrationWorkflowId !== null; backoffMs = Math.min(backoffMs * 2, longest)) {
    await meanwhile(location.migrationWorkflowId);
    const { signalsReceived: heard } = run;
    await condition(() => run.signalsReceived > heard, backoffMs);
    location = await run.ledger.loadVmLocation(run.id);
  }
  return location;
}

/** The same, on its way out: nothing else begins any more. */
async function settleForRemoval(run: VmRun): Promise<VmLocation> {
  const place = await waitUntilSettled(run, cancelMigration);
  return place.state === 'pending' || place.state === 'removed' ? place : run.ledger.setVmState(run.id, 'removing');
}

async function cancelMigration(migration: string): Promise<void> {
  try {
    await getExternalWorkflowHandle(migration).cancel();
  } catch (error) {
    // It has ended meanwhile; the ledger will say so.
    log.info('A migration could not be cancelled', { workflowId: migration, error: String(error) });
  }
}
