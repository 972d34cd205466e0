import { CancellationScope, condition } from '@temporalio/workflow';
import type { HostActivities, StoredDisk } from '../../contracts/host.ts';
import type { BuildOutcome, BuildRecord, BuildStepArgs } from '../../contracts/ledger.ts';
import type { ImageId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost, onLedger, recordIfFetched } from '../durable/activity-proxies.ts';
import { withTimeout } from '../durable/cancellation-scopes.ts';
import { refusalText, unreachableText } from '../durable/detail-texts.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { Progress } from '../durable/progress.ts';
import { loadOrFail, type PersistingRun, persistForever, RetryForever, unwindForever } from '../durable/retry-forever.ts';
import { Saga } from '../durable/saga.ts';
import { runSteps, type Step, type StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';

interface BuildRun extends PersistingRun {
  readonly record: BuildRecord;
  readonly saga: Saga;
  readonly pace: number;
  vm: Pick<VmSpec, 'id' | 'host'> | null;
}

/** A build whose VM is placed. */
interface PlacedBuild {
  readonly run: BuildRun;
  readonly vm: VmSpec;
  readonly host: HostActivities;
  stored: StoredDisk | null;
}

interface BuildStep extends Step<PlacedBuild> {
  /** The VM's state in the ledger, written before the step begins. */
  readonly vmState?: VmState;
}

const stageInStep: BuildStep = {
  name: 'stageIn',
  does: 'data disk, base image and overlay (stageIn); an uploaded disk is fetched and checked (importDisk)',
  act: stageIn,
  undo: ({ host, vm }) => host.removeDisks(vm.id, vm.generation),
  undoneBy: 'removeDisks',
};

/** The recipe; an uploaded disk has none. What its owner supplies runs in the VM, never on a host. */
const recipeSteps: readonly BuildStep[] = [
  {
    name: 'boot',
    does: 'domain, agent, identity',
    act: async ({ host, vm }) => {
      await host.ensureRunning(vm);
    },
    undo: ({ host, vm }) => host.removeDomain(vm.id, vm.generation),
    undoneBy: 'removeDomain',
    vmState: 'creating',
  },
  {
    name: 'run',
    does: 'packages, files and commands of the recipe, once',
    act: runRecipe,
    undo: null,
    undoneBy: 'with boot: it ends with its domain',
    vmState: 'running',
  },
  {
    name: 'shutDown',
    does: 'shuts the guest down, so that its writes are on the disk',
    act: ({ host, vm }) => host.shutDownGuest(vm),
    undo: null,
    undoneBy: 'with boot: it ends with its domain',
    // From here on the domain's absence is intended, and no loss.
    vmState: 'stopped',
  },
];

const storeStep: BuildStep = {
  name: 'store',
  does: 'makes one flat disk and stores it in the repository',
  act: async (build) => {
    build.stored = await withFreshUrls(issueArgs(build), ({ store }) => build.host.storeImage(store));
  },
  undo: null,
  undoneBy: 'finishBuild, which removes the files of a failed image',
};

export const buildSteps: readonly StepRow[] = [
  { name: 'reserve', does: "places the build's VM in the ledger (reserveBuild)", undoneBy: 'releaseVms' },
  stageInStep,
  ...recipeSteps,
  storeStep,
  {
    name: 'finish',
    does: 'writes the end: the image is ready, or failed (finishBuild)',
    undoneBy: 'nothing: it is retried without limit',
  },
  {
    name: 'remove',
    does: 'runs the undos above, last one first, then releaseVms: all ends are on the same path',
    undoneBy: 'nothing: it is retried without limit',
  },
];

/**
 * Builds one image in a VM of its own; see buildSteps. Cancelling this workflow cancels the build. A workflow that finds its
 * build begun ends it: the one before it was ended from outside.
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function buildImage(id: ImageId, pace = 1): Promise<BuildOutcome['state']> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const retry = new RetryForever(pace);
  const record = await loadOrFail(retry, () => ledger.loadBuild(id));
  const hasEnded = record.state === 'ready' || record.state === 'failed';
  if (hasEnded && !record.begun) return record.state as BuildOutcome['state'];
  if (record.cancelRequested) root.cancel();
  const run: BuildRun = { record, ledger, progress: new Progress(), retry, saga: new Saga(), pace, vm: null };
  if (record.begun) return CancellationScope.nonCancellable(() => endInterrupted(run));
  run.progress.setAttributes({ owner: record.owner, state: 'queued', vms: [record.vmId] });
  const cancelled: TaskError = { code: 'build-cancelled', message: `The build of ${record.name} was cancelled by its owner` };
  const outcome = await execute(run).catch((error): BuildOutcome => {
    return { state: 'failed', error: root.consideredCancelled ? cancelled : taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(() => finishRun(run, outcome));
}

/** Ends a build, unless it has ended, and removes its VM from wherever it came. */
async function endInterrupted(run: BuildRun): Promise<BuildOutcome['state']> {
  const { record, ledger, pace, saga, progress } = run;
  const location = await persistForever(run, 'the removal', () => ledger.loadVmLocation(record.vmId));
  if (location.host !== null) {
    const { host, generation } = location;
    run.vm = { id: record.vmId, host };
    const wait = (step: string): void => progress.setDetail('silent', unreachableText(host, step));
    await saga.step(
      stageInStep.name,
      async () => undefined,
      () => onHost(host, pace, { wait }).removeVm(record.vmId, generation),
    );
  }
  const error: TaskError = { code: 'interrupted', message: 'Its workflow was ended from outside; build the image again' };
  return finishRun(run, { state: 'failed', error });
}

/** All steps until the image is stored, within the recipe's timeout. */
async function execute(run: BuildRun): Promise<BuildOutcome> {
  const { timeoutS, name, base } = run.record;
  const expired = () => failure('build-timeout', `The build of ${name} did not end within its ${timeoutS} s; see its log`);
  run.progress.setDeadline(new Date(Date.now() + timeoutS * 1000).toISOString());
  return withTimeout(timeoutS * 1000, expired, async () => {
    const vm = await waitForPlacement(run);
    run.vm = vm;
    const wait = (step: string): void => run.progress.setDetail('silent', unreachableText(vm.host, step));
    const build: PlacedBuild = { run, vm, host: onHost(vm.host, run.pace, { wait }), stored: null };
    const steps = base === 'disk' ? [stageInStep, storeStep] : [stageInStep, ...recipeSteps, storeStep];
    await runSteps(run.saga, steps, build, (step, act) => trackStep(build, step, act));
    if (build.stored === null) throw new Error('BUG: no disk was stored');
    const { file, sha256, sizeBytes, virtualMiB } = build.stored;
    return { state: 'ready', disk: { file, sha256, sizeBytes }, virtualMiB };
  });
}

/** Undone by the release at the end, which is right also for a VM that was never placed. */
async function waitForPlacement({ ledger, record, progress, pace }: BuildRun): Promise<VmSpec> {
  for (;;) {
    const answer = await ledger.reserveBuild(record.id);
    if (answer.placed) {
      progress.setAttributes({ hosts: [answer.vm.host], state: 'building' });
      return answer.vm;
    }
    progress.setDetail('step', `**waits** for a host; ${refusalText(answer.refusal)}`);
    await condition(() => false, timing(pace).queuePollMs);
  }
}

async function trackStep({ run, vm }: PlacedBuild, { name, vmState }: BuildStep, act: () => Promise<void>): Promise<void> {
  const { ledger, progress, record } = run;
  if (vmState !== undefined) await ledger.setVmState(vm.id, vmState);
  await progress.trackStep(name, [vm.host], async () => {
    await ledger.recordBuildProgress(record.id, progress.timeline);
    await act();
    progress.setDetail('silent', null);
  });
}

const issueArgs =
  ({ run }: PlacedBuild) =>
  (): Promise<BuildStepArgs> =>
    run.ledger.issueBuildStepArgs(run.record.id);

async function stageIn(build: PlacedBuild): Promise<void> {
  const { run, host, vm } = build;
  if (run.record.base === 'disk') return withFreshUrls(issueArgs(build), ({ store }) => host.importDisk(store));
  const { image } = await withFreshUrls(issueArgs(build), (args) => host.stageIn(args.stageIn));
  await recordIfFetched(run.ledger, vm, image);
}

async function runRecipe(build: PlacedBuild): Promise<void> {
  const { exitCode, timedOut } = await withFreshUrls(issueArgs(build), (args) => build.host.runCommand(args.run));
  if (timedOut) throw failure('build-timeout', 'The recipe did not end within timeoutS; its log says how far it came');
  if (exitCode !== 0) throw failure('build-failed', `The recipe ended with ${exitCode}; its log says at which command`);
}

/** Writes the build's end, then removes the VM, in every case. */
async function finishRun(run: BuildRun, outcome: BuildOutcome): Promise<BuildOutcome['state']> {
  const { record, progress, vm } = run;
  const state = record.state === 'ready' || record.state === 'failed' ? record.state : outcome.state;
  if (state !== record.state)
    await persistForever(run, 'the end of the build', (ledger) =>
      ledger.finishBuild(record.id, record.vmId, outcome, progress.timeline),
    );
  progress.setAttributes({ state });
  if (vm !== null) await removeVm(run, vm);
  await notifyWaiters(await persistForever(run, 'the release of the VM', (ledger) => ledger.releaseVms([record.vmId])));
  return state;
}

async function removeVm(run: BuildRun, vm: Pick<VmSpec, 'id' | 'host'>): Promise<void> {
  await persistForever(run, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  await unwindForever(run.saga, run.retry, async (error) => {
    const why = taskErrorOf(error);
    run.progress.setDetail('stuck', `**${vm.id} is stuck** on ${vm.host} (${why.code}): ${why.message}`);
    await persistForever(run, 'the stuck VM', (ledger) => ledger.setVmState(vm.id, 'stuck', why));
  });
}
