import { CancellationScope, condition } from '@temporalio/workflow';
import type { HostActivities, RunResult, StoredDisk } from '../activities/host/contract.ts';
import type { BuildOrders, BuildOutcome, BuildRecord, LedgerActivities } from '../activities/ledger/contract.ts';
import type { ImageId } from '../model/ids.ts';
import type { Refusal, TaskError } from '../model/task.ts';
import type { VmSpec } from '../model/vm.ts';
import { codeOf, failure, taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onHost, onLedger } from './on-host.ts';
import { now, Progress } from './progress.ts';
import { Saga } from './saga.ts';
import { within } from './scopes.ts';
import { tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

/** A build at work. */
interface Build {
  readonly record: BuildRecord;
  readonly ledger: LedgerActivities;
  readonly progress: Progress;
  readonly insistence: Insistence;
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
 * @param pace scales every wait of workflows/timeouts.ts; 1 at a site.
 */
export async function buildImage(id: ImageId, pace = 1): Promise<BuildOutcome['state']> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const insistence = new Insistence(pace);
  const record = await insistence.on(
    () => ledger.loadBuild(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  if (record.state === 'ready' || record.state === 'failed') return record.state;
  if (record.cancelRequested) root.cancel();
  const build: Build = { record, ledger, progress: new Progress(), insistence, saga: new Saga(), pace, vm: null };
  build.progress.mark({ owner: record.owner, state: 'queued', vms: [record.vmId] });
  const cancelled: TaskError = { code: 'build-cancelled', message: `The build of ${record.name} was cancelled by its owner` };
  const outcome = await work(build).catch((error): BuildOutcome => {
    return { state: 'failed', error: root.consideredCancelled ? cancelled : taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(() => end(build, outcome));
}

/** Everything until the image is stored, in the time that the recipe gives. */
async function work(build: Build): Promise<BuildOutcome> {
  const { timeoutS, name } = build.record;
  const late = () => failure('build-timeout', `The build of ${name} did not end within its ${timeoutS} s; see its log`);
  build.progress.due(new Date(Date.now() + timeoutS * 1000).toISOString());
  return within(timeoutS * 1000, late, async () => {
    const vm = await placed(build);
    build.vm = vm;
    const wait = (step: string): void =>
      build.progress.say('silent', `**${vm.host} does not answer** since ${now()}; ${step} waits for its worker`);
    const host = onHost(vm.host, build.pace, { wait });
    await stageIn(build, host, vm);
    if (build.record.base !== 'disk') await runIn(build, host, vm);
    const { file, sha256, sizeBytes, virtualMiB } = await store(build, host, vm);
    return { state: 'ready', disk: { file, sha256, sizeBytes }, virtualMiB };
  });
}

/** Asks for a place until there is one. Undone by the release at the end, whether there ever was one. */
async function placed({ ledger, record, progress, pace }: Build): Promise<VmSpec> {
  for (;;) {
    const answer = await ledger.reserveBuild(record.id);
    if (answer.placed) {
      progress.mark({ hosts: [answer.vm.host], state: 'building' });
      return answer.vm;
    }
    progress.say('step', waitLine(answer.refusal));
    await condition(() => false, waits(pace).queuePoll);
  }
}

function waitLine({ hosts, failed }: Refusal): string {
  const reasons = Object.entries(failed).map(([filter, count]) => `${count} failed ${filter}`);
  return `**waits for a host**; of ${hosts}: ${reasons.join(', ') || 'none was asked'}`;
}

/** A step, in the timeline that the image's owner sees. */
async function during<T>(build: Build, step: string, vm: VmSpec, act: () => Promise<T>): Promise<T> {
  const { ledger, progress, record } = build;
  return progress.during(step, [vm.host], async (done) => {
    await ledger.noteBuild(record.id, progress.timeline);
    const result = await act();
    progress.say('silent', null);
    done(vm.host);
    return result;
  });
}

/** The rights in an order run out while its step waits for a silent host; then new ones are asked for. */
async function ordered<T>({ ledger, record }: Build, act: (orders: BuildOrders) => Promise<T>): Promise<T> {
  try {
    return await act(await ledger.buildOrders(record.id));
  } catch (error) {
    if (codeOf(error) !== 'forbidden') throw error;
    return act(await ledger.buildOrders(record.id));
  }
}

async function stageIn(build: Build, host: HostActivities, vm: VmSpec): Promise<void> {
  const { saga, record, ledger } = build;
  const disks = async (): Promise<void> => {
    if (record.base === 'disk') return ordered(build, ({ store }) => host.importDisk(store));
    const { image } = await ordered(build, (orders) => host.stageIn(orders.stageIn));
    if (image !== 'cache') await ledger.imageCached(vm.host, vm.image.id);
  };
  const undo = () => host.removeDisks(vm.id, vm.generation);
  await during(build, 'stageIn', vm, () => saga.step('disks', disks, undo));
}

/** The recipe, in its VM, until what it wrote is on the disk. */
async function runIn(build: Build, host: HostActivities, vm: VmSpec): Promise<void> {
  const { ledger, saga } = build;
  await ledger.setVmState(vm.id, 'creating');
  const boot = () => host.ensureRunning(vm);
  const undo = () => host.removeDomain(vm.id, vm.generation);
  await during(build, 'boot', vm, () => saga.step('domain', boot, undo));
  await ledger.setVmState(vm.id, 'running');
  const result = await during(build, 'run', vm, () => ordered(build, ({ run }) => host.runCommand(run)));
  refuseFailed(result);
  // From here on the domain's absence is what is wanted, and no loss.
  await ledger.setVmState(vm.id, 'stopped');
  await during(build, 'shutDown', vm, () => host.shutDown(vm));
}

function refuseFailed({ exitCode, timedOut }: RunResult): void {
  if (timedOut) throw failure('build-timeout', 'The recipe did not end within timeoutS; its log says how far it came');
  if (exitCode !== 0) throw failure('build-failed', `The recipe ended with ${exitCode}; its log says at which command`);
}

function store(build: Build, host: HostActivities, vm: VmSpec): Promise<StoredDisk> {
  return during(build, 'store', vm, () => ordered(build, (orders) => host.storeImage(orders.store)));
}

/** Tells the end, then removes what there is, for as long as that takes. */
async function end(build: Build, outcome: BuildOutcome): Promise<BuildOutcome['state']> {
  const { record, progress, vm } = build;
  await recorded(build, 'the end of the build', (ledger) =>
    ledger.finishBuild(record.id, record.vmId, outcome, progress.timeline),
  );
  progress.mark({ state: outcome.state });
  if (vm !== null) await removed(build, vm);
  await tellPlaced(await recorded(build, 'the release of the VM', (ledger) => ledger.releaseVms([record.vmId])));
  return outcome.state;
}

async function removed(build: Build, vm: VmSpec): Promise<void> {
  const { insistence, progress, saga } = build;
  await recorded(build, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  const unwind = async (): Promise<void> => {
    const stuck = await saga.unwind();
    if (stuck !== null) throw stuck.error;
  };
  await insistence.on(unwind, async (error) => {
    const why = taskErrorOf(error);
    progress.say('stuck', `**${vm.id} is stuck** on ${vm.host} (${why.code}): ${why.message}`);
    await recorded(build, 'the stuck VM', (ledger) => ledger.setVmState(vm.id, 'stuck', why));
  });
}

/** An end has to be written down, whatever the ledger thinks of it: a refusal is a mistake of ours, and waits for us. */
async function recorded<T>(build: Build, what: string, act: (ledger: LedgerActivities) => Promise<T>): Promise<T> {
  const refused = (error: unknown) =>
    build.progress.say('refused', `**the ledger refuses ${what}**: ${taskErrorOf(error).message}`);
  const result = await build.insistence.on(() => act(build.ledger), refused);
  build.progress.say('refused', null);
  return result;
}
