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
import type { CustomizeVm, HostActivities } from '../activities/host/contract.ts';
import type { VmPlace, VmWish } from '../activities/ledger/contract.ts';
import type { HostId, VmId } from '../model/ids.ts';
import type { TaskError } from '../model/task.ts';
import { signalName, workflowId } from '../model/temporal.ts';
import type { VmSpec } from '../model/vm.ts';
import type { VmOperation } from '../model/vm-order.ts';
import { codeOf, neverStarted, taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onHost, onLedger } from './on-host.ts';
import { Prestaging } from './prestaging.ts';
import { now, Progress } from './progress.ts';
import { tell, tellPlaced, tellPlanner } from './tell.ts';
import { waits } from './timeouts.ts';
import { type PowerRun, restore, suspend } from './vm-power.ts';
import { wantTemplate } from './want-template.ts';

const placedSignal = defineSignal(signalName.placed);
const askedSignal = defineSignal(signalName.asked);
const movedSignal = defineSignal(signalName.moved);

interface Run extends PowerRun {
  id: VmId;
  progress: Progress;
  /** Grows with every signal: the ledger says what it was about. */
  heard: number;
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
 * @param pace scales every wait of workflows/timeouts.ts; 1 at a site.
 */
export async function runVm(id: VmId, pace = 1): Promise<void> {
  const run = open(id, pace);
  const wish = await run.insistence.on(
    () => run.ledger.vmWish(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  run.progress.mark({ owner: wish.owner, state: wish.state, vms: [id] });
  if (wish.state === 'removed') return;
  let why: TaskError | null = null;
  if (['pending', 'reserved', 'creating'].includes(wish.state)) why = await unlessUnwanted(run, wish, () => create(run));
  why ??= await serve(run);
  await CancellationScope.nonCancellable(() => remove(run, why));
}

function open(id: VmId, pace: number): Run {
  const progress = new Progress();
  const run: Run = {
    id,
    pace,
    progress,
    heard: 0,
    ledger: onLedger(pace),
    insistence: new Insistence(pace),
    silent: (host, step) => progress.say('silent', `**${host} does not answer** since ${now()}; ${step} waits for its worker`),
    refused: (error) => progress.say('refused', `**a step is refused**, and tried again: ${taskErrorOf(error).message}`),
  };
  for (const signal of [placedSignal, askedSignal, movedSignal])
    setHandler(signal, () => {
      run.heard += 1;
    });
  return run;
}

/** Runs an act; ends it as soon as its owner wants the VM's removal. Returns why it came to nothing, or null. */
async function unlessUnwanted(run: Run, wish: VmWish, act: () => Promise<void>): Promise<TaskError | null> {
  const scope = new CancellationScope();
  let over = wish.remove;
  const watching = (async () => {
    for (let heard = run.heard; !over; heard = run.heard) {
      await condition(() => over || run.heard > heard);
      if (!over && (await look(run)).remove) scope.cancel();
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
async function create(run: Run): Promise<void> {
  for (;;) {
    const vm = await placed(run);
    try {
      await make(run, vm);
      return;
    } catch (error) {
      if (!neverStarted(error)) throw error;
    }
    // Nothing was asked of its hypervisor: what was staged is removed by that host's reconciliation, when it answers.
    await tellPlaced(await run.ledger.requeueVm(run.id));
    await tell(workflowId.reconcile(vm.host), signalName.lookNow);
  }
}

/** Waits until the ledger has placed it. A signal says when to ask; the poll is for one that was lost. */
async function placed(run: Run): Promise<VmSpec> {
  const prestaging = new Prestaging(run.id, run.pace);
  for (;;) {
    const { heard } = run;
    const answer = await run.ledger.reserveVm(run.id);
    if (answer.placed) {
      run.progress.mark({ hosts: [answer.vm.host] });
      return answer.vm;
    }
    const reasons = Object.entries(answer.refusal.failed).map(([filter, hosts]) => `${hosts} failed ${filter}`);
    run.progress.say('step', `**waits** for a host; of ${answer.refusal.hosts} ${reasons.join(', ') || 'none was asked'}`);
    if (answer.planned) await tellPlanner();
    await prestaging.want(answer.prestage, answer.term);
    await condition(() => run.heard > heard, waits(run.pace).queuePoll);
  }
}

async function make(run: Run, vm: VmSpec): Promise<void> {
  const { progress, ledger } = run;
  const staging = onHost(vm.host, run.pace, 'throw');
  const order = await ledger.vmOrders(run.id);
  await progress.during('stageIn', [vm.host], async () => {
    const { image } = await staging.stageIn({
      vm: order.vm,
      inputs: order.files.map(({ input }) => input),
      limits: { outsideBytes: 0, outsideSeconds: 0, allowInternal: false },
    });
    if (image !== 'cache') await ledger.imageCached(vm.host, vm.image.id);
  });
  const host = hostOf(run, vm.host);
  await ledger.setVmState(run.id, 'creating');
  await progress.during('boot', [vm.host], () => started(run, host, order.vm));
  await progress.during('customize', [vm.host], async () => {
    await ledger.vmCustomized(run.id, await customized(run, order));
  });
}

/** It runs already, so it may be moved meanwhile: then it is set up where it is. What was done isn't done again. */
async function customized(run: Run, first: CustomizeVm): Promise<string> {
  for (let order = first; ; ) {
    try {
      return (await hostOf(run, order.vm.host).customizeVm(order)).hostKey;
    } catch (error) {
      if (codeOf(error) !== 'stale-generation') throw error;
      await unmoved(run, async () => undefined);
      const next = await run.ledger.vmOrders(run.id);
      if (next.vm.generation === order.vm.generation) throw error;
      order = next;
    }
  }
}

async function started(run: Run, host: HostActivities, vm: VmSpec): Promise<void> {
  const { bootMs, boot } = await host.ensureRunning(vm);
  wantTemplate(vm, boot, run.pace);
  await run.ledger.vmStarted(run.id, new Date(Date.now() - bootMs).toISOString(), boot);
  run.progress.mark({ state: 'running' });
}

const hostOf = (run: Run, host: HostId): HostActivities => onHost(host, run.pace, { wait: (step) => run.silent(host, step) });

/** What is wanted of it; without that nothing can go on. */
const look = (run: Run): Promise<VmWish> => run.insistence.on(() => run.ledger.vmWish(run.id), run.refused);

/** Does what its owner asks for, one thing after the other. @returns why it is to be removed; null: its owner wants it. */
async function serve(run: Run): Promise<TaskError | null> {
  for (;;) {
    const { heard } = run;
    const wish = await look(run);
    run.progress.mark({ state: wish.state });
    if (wish.remove) return null;
    const leftMs = wish.leaseEndsAt === null ? null : Date.parse(wish.leaseEndsAt) - Date.now();
    if (leftMs !== null && leftMs <= 0) return { code: 'lease-expired', message: `Its lease ended at ${wish.leaseEndsAt}` };
    if (wish.operation !== null) {
      const operation = wish.operation;
      await operate(run, operation, wish);
      continue;
    }
    run.progress.say('step', `**${wish.state}** since ${now()}`);
    const pause = waits(run.pace).vmPoll;
    await condition(() => run.heard > heard, leftMs === null ? pause : Math.min(pause, leftMs));
    if (workflowInfo().continueAsNewSuggested && run.heard === heard) await continueAsNew<typeof runVm>(run.id, run.pace);
  }
}

/** One operation, to its end: it has happened, or its owner is told why not. */
async function operate(run: Run, operation: VmOperation, wish: VmWish): Promise<void> {
  run.progress.say('step', `**${operation}** since ${now()}`);
  let to: 'running' | 'paused' | null = null;
  let error: TaskError | null = null;
  try {
    if (operation === 'suspend') error = await suspend(run, run.id);
    else if (operation === 'restore') error = await restore(run, run.id);
    else if (operation === 'reboot' && wish.state !== 'running') await start(run);
    else {
      const { vm } = await run.ledger.beginOperation(run.id, operation);
      const host = hostOf(run, vm.host);
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
    if (why.code === 'vm-lost') await run.insistence.on(() => run.ledger.vmMissing(run.id, why), run.refused);
  }
  const ended = () => run.ledger.endOperation(run.id, operation, error === null ? to : null, error);
  for (const { host, number } of await run.insistence.on(ended, run.refused))
    await tell(workflowId.drain(host, number), signalName.changed);
}

/** What was refused may have taken effect all the same: the guest is brought back to where the ledger has it. */
async function withUndo(run: Run, act: () => Promise<void>, undo: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (codeOf(error) !== 'vm-lost')
      await run.insistence.on(undo, (again) => {
        if (codeOf(again) === 'vm-lost') throw again;
        run.refused(again);
      });
    throw error;
  }
}

/** A VM whose domain has gone boots again from its disks. */
async function start(run: Run): Promise<void> {
  try {
    const { vm } = await run.ledger.beginStart(run.id);
    await started(run, hostOf(run, vm.host), vm);
  } catch (error) {
    await markStuck(run, taskErrorOf(error));
    throw error;
  }
}

/** For an operator. A VM in no state to be stuck stays as it is, and the details say so. */
async function markStuck(run: Run, why: TaskError): Promise<void> {
  run.progress.say('stuck', `**${run.id} is stuck** (${why.code}): ${why.message}. Put it right, then signal lookNow`);
  try {
    await run.ledger.setVmState(run.id, 'stuck', why);
  } catch (error) {
    run.refused(error);
  }
}

/** Removes what there is, for ever: it is nobody else's to. */
async function remove(run: Run, why: TaskError | null): Promise<void> {
  const { ledger, id, progress, insistence } = run;
  progress.say('step', `**removing** since ${now()}${why === null ? '' : `: ${why.message}`}`);
  let endedAt: string | null = null;
  await insistence.on(
    async () => {
      const place = await still(run);
      if (place.host === null || place.state === 'pending' || place.state === 'removed') return;
      await hostOf(run, place.host).removeVm(id, place.generation);
      endedAt ??= now();
      if (place.home !== null && place.home !== place.host) await hostOf(run, place.home).removeDisks(id, place.generation);
    },
    (error) => markStuck(run, taskErrorOf(error)),
  );
  await tellPlaced(await insistence.on(() => ledger.finishVm(id, { endedAt, why }), run.refused));
  progress.mark({ state: 'removed' });
}

/** Where it is once nobody moves it. @param meanwhile what to do about a migration that is under way */
async function unmoved(run: Run, meanwhile: (migration: string) => Promise<void>): Promise<VmPlace> {
  const { first, longest } = waits(run.pace).unclearPause;
  let place = await run.ledger.vmPlace(run.id);
  for (let pause = first; place.movedBy !== null; pause = Math.min(pause * 2, longest)) {
    await meanwhile(place.movedBy);
    const { heard } = run;
    await condition(() => run.heard > heard, pause);
    place = await run.ledger.vmPlace(run.id);
  }
  return place;
}

/** The same, on its way out: nothing else begins any more. */
async function still(run: Run): Promise<VmPlace> {
  const place = await unmoved(run, cancel);
  return place.state === 'pending' || place.state === 'removed' ? place : run.ledger.setVmState(run.id, 'removing');
}

async function cancel(migration: string): Promise<void> {
  try {
    await getExternalWorkflowHandle(migration).cancel();
  } catch (error) {
    // It has ended meanwhile; the ledger will say so.
    log.info('A migration could not be cancelled', { workflowId: migration, error: String(error) });
  }
}
