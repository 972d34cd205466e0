import { CancellationScope, condition } from '@temporalio/workflow';
import type { HostActivities, RunResult, StoredDisk } from '../../contracts/host.ts';
import type { BuildOutcome, BuildRecord, BuildStepArgs, LedgerActivities } from '../../contracts/ledger.ts';
import type { ImageId } from '../../model/ids.ts';
import type { Refusal, TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { withTimeout } from '../durable/cancellation-scopes.ts';
import { codeOf, failure, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { Saga } from '../durable/saga.ts';
import { timing } from '../durable/timeouts.ts';

/** A build at work. */
interface BuildRun {
  readonly record: BuildRecord;
  readonly ledger: LedgerActivities;
  readonly progress: Progress;
  readonly retry: RetryForever;
  readonly saga: Saga;
  readonly pace: number;
  vm: VmSpec | null;
}

/**
 * One build of an image, in a VM that is made for it. Whatever its owner supplies runs in there, never on a host.
 *
 *   step      what                                           undone by
 *   (place)   the build's VM is placed by the ledger         releaseVms
 *   stageIn   data disk, base image, overlay                 removeDisks
 *             (an uploaded disk: fetched and looked at)
 *   boot      the domain, agent, identity                    removeDomain
 *   run       packages, files, commands, once                (ends with its domain)
 *   shutDown  what was written is on the disk                (ends with its domain)
 *   store     one flat disk, into the repository             (files that a failed image has are removed with its end)
 *   finish    the image is ready, or failed
 *   remove    the undos above, last one first, for ever: a build's end and its undoing are one path
 *
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function buildImage(id: ImageId, pace = 1): Promise<BuildOutcome['state']> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const retry = new RetryForever(pace);
  const record = await retry.run(
    () => ledger.loadBuild(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  if (record.state === 'ready' || record.state === 'failed') return record.state;
  if (record.cancelRequested) root.cancel();
  const build: BuildRun = { record, ledger, progress: new Progress(), retry, saga: new Saga(), pace, vm: null };
  build.progress.setAttributes({ owner: record.owner, state: 'queued', vms: [record.vmId] });
  const cancelled: TaskError = { code: 'build-cancelled', message: `The build of ${record.name} was cancelled by its owner` };
  const outcome = await execute(build).catch((error): BuildOutcome => {
    return { state: 'failed', error: root.consideredCancelled ? cancelled : taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(() => finishRun(build, outcome));
}

/** Everything until the image is stored, in the time that the recipe gives. */
async function execute(build: BuildRun): Promise<BuildOutcome> {
  const { timeoutS, name } = build.record;
  const late = () => failure('build-timeout', `The build of ${name} did not end within its ${timeoutS} s; see its log`);
  build.progress.setDeadline(new Date(Date.now() + timeoutS * 1000).toISOString());
  return withTimeout(timeoutS * 1000, late, async () => {
    const vm = await waitForPlacement(build);
    build.vm = vm;
    const wait = (step: string): void =>
      build.progress.setDetail('silent', `**${vm.host} does not answer** since ${isoNow()}; ${step} waits for its worker`);
    const host = onHost(vm.host, build.pace, { wait });
    await stageIn(build, host, vm);
    if (build.record.base !== 'disk') await runRecipe(build, host, vm);
    const { file, sha256, sizeBytes, virtualMiB } = await store(build, host, vm);
    return { state: 'ready', disk: { file, sha256, sizeBytes }, virtualMiB };
  });
}

/** Asks for a place until there is one. Undone by the release at the end, whether there ever was one. */
async function waitForPlacement({ ledger, record, progress, pace }: BuildRun): Promise<VmSpec> {
  for (;;) {
    const answer = await ledger.reserveBuild(record.id);
    if (answer.placed) {
      progress.setAttributes({ hosts: [answer.vm.host], state: 'building' });
      return answer.vm;
    }
    progress.setDetail('step', waitLine(answer.refusal));
    await condition(() => false, timing(pace).queuePollMs);
  }
}

function waitLine({ hosts, failed }: Refusal): string {
  const reasons = Object.entries(failed).map(([filter, count]) => `${count} failed ${filter}`);
  return `**waits for a host**; of ${hosts}: ${reasons.join(', ') || 'none was asked'}`;
}

/** A step, in the timeline that the image's owner sees. */
async function trackStep<T>(build: BuildRun, step: string, vm: VmSpec, act: () => Promise<T>): Promise<T> {
  const { ledger, progress, record } = build;
  return progress.trackStep(step, [vm.host], async (done) => {
    await ledger.recordBuildProgress(record.id, progress.timeline);
    const result = await act();
    progress.setDetail('silent', null);
    done(vm.host);
    return result;
  });
}

/** The rights in an order run out while its step waits for a silent host; then new ones are asked for. */
async function withFreshUrls<T>({ ledger, record }: BuildRun, act: (orders: BuildStepArgs) => Promise<T>): Promise<T> {
  try {
    return await act(await ledger.issueBuildStepArgs(record.id));
  } catch (error) {
    if (codeOf(error) !== 'forbidden') throw error;
    return act(await ledger.issueBuildStepArgs(record.id));
  }
}

async function stageIn(build: BuildRun, host: HostActivities, vm: VmSpec): Promise<void> {
  const { saga, record, ledger } = build;
  const disks = async (): Promise<void> => {
    if (record.base === 'disk') return withFreshUrls(build, ({ store }) => host.importDisk(store));
    const { image } = await withFreshUrls(build, (orders) => host.stageIn(orders.stageIn));
    if (image !== 'cache') await ledger.recordImageCached(vm.host, vm.image.id);
  };
  const undo = () => host.removeDisks(vm.id, vm.generation);
  await trackStep(build, 'stageIn', vm, () => saga.step('stageIn', disks, undo));
}

/** The recipe, in its VM, until what it wrote is on the disk. */
async function runRecipe(build: BuildRun, host: HostActivities, vm: VmSpec): Promise<void> {
  const { ledger, saga } = build;
  await ledger.setVmState(vm.id, 'creating');
  const boot = () => host.ensureRunning(vm);
  const undo = () => host.removeDomain(vm.id, vm.generation);
  await trackStep(build, 'boot', vm, () => saga.step('boot', boot, undo));
  await ledger.setVmState(vm.id, 'running');
  const result = await trackStep(build, 'run', vm, () => withFreshUrls(build, ({ run }) => host.runCommand(run)));
  throwIfFailed(result);
  // From here on the domain's absence is what is wanted, and no loss.
  await ledger.setVmState(vm.id, 'stopped');
  await trackStep(build, 'shutDown', vm, () => host.shutDownGuest(vm));
}

function throwIfFailed({ exitCode, timedOut }: RunResult): void {
  if (timedOut) throw failure('build-timeout', 'The recipe did not end within timeoutS; its log says how far it came');
  if (exitCode !== 0) throw failure('build-failed', `The recipe ended with ${exitCode}; its log says at which command`);
}

function store(build: BuildRun, host: HostActivities, vm: VmSpec): Promise<StoredDisk> {
  return trackStep(build, 'store', vm, () => withFreshUrls(build, (orders) => host.storeImage(orders.store)));
}

/** Tells the end, then removes what there is, for as long as that takes. */
async function finishRun(build: BuildRun, outcome: BuildOutcome): Promise<BuildOutcome['state']> {
  const { record, progress, vm } = build;
  await persistForever(build, 'the end of the build', (ledger) =>
    ledger.finishBuild(record.id, record.vmId, outcome, progress.timeline),
  );
  progress.setAttributes({ state: outcome.state });
  if (vm !== null) await removeBuildVm(build, vm);
  await notifyWaiters(await persistForever(build, 'the release of the VM', (ledger) => ledger.releaseVms([record.vmId])));
  return outcome.state;
}

async function removeBuildVm(build: BuildRun, vm: VmSpec): Promise<void> {
  const { retry: insistence, progress, saga } = build;
  await persistForever(build, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  const unwind = async (): Promise<void> => {
    const stuck = await saga.unwind();
    if (stuck !== null) throw stuck.error;
  };
  await insistence.run(unwind, async (error) => {
    const why = taskErrorOf(error);
    progress.setDetail('stuck', `**${vm.id} is stuck** on ${vm.host} (${why.code}): ${why.message}`);
    await persistForever(build, 'the stuck VM', (ledger) => ledger.setVmState(vm.id, 'stuck', why));
  });
}

/** An end has to be written down, whatever the ledger thinks of it: a refusal is a mistake of ours, and waits for us. */
async function persistForever<T>(build: BuildRun, what: string, act: (ledger: LedgerActivities) => Promise<T>): Promise<T> {
  const refused = (error: unknown) =>
    build.progress.setDetail('refused', `**the ledger refuses ${what}**: ${taskErrorOf(error).message}`);
  const result = await build.retry.run(() => act(build.ledger), refused);
  build.progress.setDetail('refused', null);
  return result;
}
