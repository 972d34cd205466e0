import { CancellationScope, ContinueAsNew, condition, continueAsNew, isCancellation } from '@temporalio/workflow';
import type { CustomizeVm } from '../../contracts/host.ts';
import type { VmDesired } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost, recordIfFetched } from '../durable/activity-proxies.ts';
import { refusalText } from '../durable/detail-texts.ts';
import { codeOf, neverStarted, taskErrorOf } from '../durable/failure.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { isHistoryLongSince } from '../durable/history-limit.ts';
import { notifyPlanner, notifyReconciliation, notifyWaiters } from '../durable/other-workflows.ts';
import { Saga } from '../durable/saga.ts';
import { runSteps, type Step } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { ImagePrefetcher } from '../image/image-prefetcher.ts';
import { bootDomain, loadDesired, type VmRun, vmHost } from './vm-run.ts';
import { waitUntilSettled } from './wait-until-settled.ts';

/** A VM that is being provisioned, with its customization; both are read again when it moves meanwhile. */
interface Provisioning {
  readonly run: VmRun;
  setup: CustomizeVm;
}

const customizeStep: Step<Provisioning> = {
  name: 'customize',
  does: 'host key, user, files, swap, first commands',
  act: async (vm) => vm.run.ledger.recordVmCustomized(vm.run.id, await customize(vm)),
  undo: null,
  undoneBy: 'remove',
};

/** None has an undo of its own: the step `remove` of run-vm.ts removes the VM from every state. */
export const provisionSteps: readonly Step<Provisioning>[] = [
  {
    name: 'stageIn',
    does: 'data disk with files, image, overlay and network',
    act: stageIn,
    undo: null,
    undoneBy: 'remove',
  },
  {
    name: 'boot',
    does: 'domain, agent, identity',
    act: async ({ run, setup }) => {
      await run.ledger.setVmState(run.id, 'creating');
      await bootDomain(run, setup.vm, null);
    },
    undo: null,
    undoneBy: 'remove',
  },
  customizeStep,
];

/** Places and provisions the VM, on another host when one is unreachable before the domain is started. */
export async function create(run: VmRun): Promise<void> {
  for (;;) {
    const vm = await waitForPlacement(run);
    try {
      await provision(run, vm);
      return;
    } catch (error) {
      if (!neverStarted(error)) throw error;
    }
    // No domain was started: the host's reconciliation removes what was staged, when the host answers.
    await notifyWaiters(await run.ledger.requeueVm(run.id));
    await notifyReconciliation(vm.host);
    // Where each placement is on a host that takes no steps, the loop of waitForPlacement does not come to its wait.
    if (isHistoryLongSince('vm-requeue')) await continueVm(run);
  }
}

/** The ledger holds all that the run of a VM knows that waits for its placement. */
const continueVm = ({ id, pace }: VmRun): Promise<never> => continueAsNew<(id: VmId, pace: number) => Promise<unknown>>(id, pace);

/** Of a VM whose workflow was ended from outside between its boot and its customization. */
export async function customizeAgain(run: VmRun): Promise<void> {
  const vm: Provisioning = { run, setup: await run.ledger.issueVmSetup(run.id) };
  await runSteps(new Saga(), [customizeStep], vm, (step, act) => run.progress.trackStep(step.name, [vm.setup.vm.host], act));
}

/** Waits until the ledger has placed the VM. A signal starts an attempt at once; the poll is for a lost signal. */
async function waitForPlacement(run: VmRun): Promise<VmSpec> {
  const prefetcher = new ImagePrefetcher(run.id, run.pace);
  for (;;) {
    const signalsSeen = run.signalsReceived;
    const answer = await run.ledger.reserveVm(run.id);
    if (answer.placed) {
      run.progress.setAttributes({ hosts: [answer.vm.host] });
      return answer.vm;
    }
    run.progress.setDetail('step', `**waits** for a host; ${refusalText(answer.refusal)}`);
    if (answer.planActive) await notifyPlanner();
    await prefetcher.request(answer.prefetch, answer.term);
    await condition(() => run.signalsReceived > signalsSeen, timing(run.pace).queuePollMs);
    // Also where a signal arrived meanwhile.
    if (isHistoryLongSince('vm-placement')) await continueVm(run);
  }
}

async function provision(run: VmRun, { host }: VmSpec): Promise<void> {
  const { progress, ledger } = run;
  const vm: Provisioning = { run, setup: await ledger.issueVmSetup(run.id) };
  await runSteps(new Saga(), provisionSteps, vm, (step, act) => progress.trackStep(step.name, [host], act));
}

async function stageIn(provisioning: Provisioning): Promise<void> {
  const { run } = provisioning;
  let stale = false;
  // The saga has read its setup just before this step.
  const currentSetup = async (): Promise<CustomizeVm> => {
    if (stale) provisioning.setup = await run.ledger.issueVmSetup(run.id);
    stale = true;
    return provisioning.setup;
  };
  const { image } = await withFreshUrls(currentSetup, ({ vm, files }) =>
    onHost(vm.host, run.pace, 'throw').stageIn({
      vm,
      inputs: files.map(({ input }) => input),
      limits: { outsideBytes: 0, outsideSeconds: 0, allowInternal: false },
    }),
  );
  await recordIfFetched(run.ledger, provisioning.setup.vm, image);
}

/** The VM runs already, so a migration may move it meanwhile: then it is customized at its new host, which continues. */
async function customize(provisioning: Provisioning): Promise<string> {
  const { run } = provisioning;
  for (;;) {
    const { setup } = provisioning;
    try {
      return (await vmHost(run, setup.vm.host).customizeVm(setup)).hostKey;
    } catch (error) {
      if (codeOf(error) !== 'stale-generation') throw error;
      await waitUntilSettled(run, async () => undefined);
      const next = await run.ledger.issueVmSetup(run.id);
      if (next.vm.generation === setup.vm.generation) throw error;
      provisioning.setup = next;
    }
  }
}

/** Runs an act; cancels it when the owner requests the VM's removal. @returns the act's error, or null */
export async function cancelOnRemoval(run: VmRun, desired: VmDesired, act: () => Promise<void>): Promise<TaskError | null> {
  const scope = new CancellationScope();
  let ended = desired.remove;
  const watched = (async () => {
    for (let signalsSeen = run.signalsReceived; !ended; signalsSeen = run.signalsReceived) {
      await condition(() => ended || run.signalsReceived > signalsSeen);
      if (!ended && (await loadDesired(run)).remove) scope.cancel();
    }
  })();
  try {
    if (!ended) await scope.run(act);
    return null;
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    if (isCancellation(error)) return null;
    return taskErrorOf(error);
  } finally {
    ended = true;
    await watched;
  }
}
