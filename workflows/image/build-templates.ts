import { CancellationScope, continueAsNew, defineSignal, setHandler, sleep, workflowInfo } from '@temporalio/workflow';
import type { TemplatePlacement } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName } from '../../model/temporal.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { Saga } from '../durable/saga.ts';
import { timing } from '../durable/timeouts.ts';

const templateRequestedSignal = defineSignal<[VmSpec]>(signalName.templateRequested);

/** What one host may owe at a time. A VM that boots for want of what doesn't fit in here asks again. */
const maxPending = 32;

/** VMs that start from the same template, as far as the ledger can tell: their host looks closer. */
const templateKind = ({ image, vcpus, memoryMiB }: VmSpec): string => `${image.name} (${image.id}), ${vcpus} × ${memoryMiB} MiB`;

/**
 * The templates that one host owes: what a VM had to boot for want of is made behind its back, one at a time, on room that
 * nobody waits for. Begun by the first VM that wants one (want-template.ts), told by others, and over when nothing is owed.
 *
 *   step       of one template                       undone by
 *   (reserve)  a VM of nobody's, placed by the ledger  releaseVms
 *   make       booted, calmed, saved, sealed           removeVm
 *   remove     the undos above: what becomes a template has left its VM by then
 */
export async function buildTemplates(id: HostId, pace = 1, pending: VmSpec[] = []): Promise<void> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const insistence = new RetryForever(pace);
  const pendingByKind = new Map(pending.map((vm) => [templateKind(vm), vm]));
  setHandler(templateRequestedSignal, (vm) => {
    // The newest, for its URLs.
    if (pendingByKind.has(templateKind(vm)) || pendingByKind.size < maxPending) pendingByKind.set(templateKind(vm), vm);
  });
  for (let next = [...pendingByKind][0]; next !== undefined; next = [...pendingByKind][0]) {
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof buildTemplates>(id, pace, [...pendingByKind.values()]);
    const [kind, like] = next;
    const place = await reserveOne(like, pace);
    if (place.kind === 'waits') {
      progress.setDetail('template', `**${kind}** waits since ${isoNow()}: ${place.reason}`);
      await sleep(timing(pace).templateRetryMs);
      continue;
    }
    if (place.kind === 'reserved') pendingByKind.delete(kind);
    await buildOne(id, pace, place, kind, progress, insistence);
  }
}

/** Repeated, it finds what a refused attempt may have taken after all. */
async function reserveOne(like: VmSpec, pace: number): Promise<TemplatePlacement> {
  try {
    return await onLedger(pace).reserveTemplate(like);
  } catch (error) {
    return { kind: 'waits', reason: `the ledger refuses it: ${taskErrorOf(error).message}` };
  }
}

/** One template from its room to the end of its VM. What fails is no VM's failure: the next that boots asks again. */
async function buildOne(
  id: HostId,
  pace: number,
  place: Exclude<TemplatePlacement, { kind: 'waits' }>,
  kind: string,
  progress: Progress,
  insistence: RetryForever,
): Promise<void> {
  const saga = new Saga();
  const [vm, generation] = place.kind === 'left' ? [place.vm, place.generation] : [place.vm.id, place.vm.generation];
  const setDetail = (line: string): void => progress.setDetail('template', `**${kind}** ${line}`);
  const host = onHost(id, pace, { wait: () => setDetail(`waits for ${id}, which does not answer since ${isoNow()}`) });
  const madeBy = async (spec: VmSpec): Promise<void> => {
    setDetail(`is being made since ${isoNow()} by ${vm}`);
    const { key, outcome, bytes } = await onHost(id, pace, 'throw').buildTemplate(spec);
    setDetail(`${outcome} at ${isoNow()}: ${key}, ${Math.round(bytes / 2 ** 20)} MiB`);
  };
  // The room was taken by the ledger before: its step only carries the undo.
  await saga.step(
    'reserve',
    async () => undefined,
    () => releaseOne(vm, pace),
  );
  try {
    await saga.step(
      'build',
      async () => (place.kind === 'reserved' ? madeBy(place.vm) : undefined),
      () => host.removeVm(vm, generation),
    );
  } catch (error) {
    setDetail(`was not made at ${isoNow()}: ${taskErrorOf(error).message}`);
  }
  await CancellationScope.nonCancellable(() =>
    insistence.run(
      async () => {
        const stuck = await saga.unwind();
        if (stuck !== null) throw stuck.error;
      },
      (error) => progress.setDetail('removal', `**${vm} can't be removed** from ${id}: ${taskErrorOf(error).message}`),
    ),
  );
  progress.setDetail('removal', null);
}

async function releaseOne(vm: VmId, pace: number): Promise<void> {
  await notifyWaiters(await onLedger(pace).releaseVms([vm]));
}
