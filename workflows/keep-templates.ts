import { CancellationScope, continueAsNew, defineSignal, setHandler, sleep, workflowInfo } from '@temporalio/workflow';
import type { TemplatePlace } from '../activities/ledger/contract.ts';
import type { HostId, VmId } from '../model/ids.ts';
import { signalName } from '../model/temporal.ts';
import type { VmSpec } from '../model/vm.ts';
import { taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onHost, onLedger } from './on-host.ts';
import { now, Progress } from './progress.ts';
import { Saga } from './saga.ts';
import { tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

const wantedSignal = defineSignal<[VmSpec]>(signalName.wanted);

/** What one host may owe at a time. A VM that boots for want of what doesn't fit in here asks again. */
const mostWanted = 32;

/** VMs that start from the same template, as far as the ledger can tell: their host looks closer. */
const kindOf = ({ image, vcpus, memoryMiB }: VmSpec): string => `${image.name} (${image.id}), ${vcpus} × ${memoryMiB} MiB`;

/**
 * The templates that one host owes: what a VM had to boot for want of is made behind its back, one at a time, on room that
 * nobody waits for. Begun by the first VM that wants one (want-template.ts), told by others, and over when nothing is owed.
 *
 *   step       of one template                       undone by
 *   (reserve)  a VM of nobody's, placed by the ledger  releaseVms
 *   make       booted, calmed, saved, sealed           removeVm
 *   remove     the undos above: what becomes a template has left its VM by then
 */
export async function keepTemplates(id: HostId, pace = 1, owed: VmSpec[] = []): Promise<void> {
  const progress = new Progress();
  progress.mark({ hosts: [id] });
  const insistence = new Insistence(pace);
  const wanted = new Map(owed.map((vm) => [kindOf(vm), vm]));
  setHandler(wantedSignal, (vm) => {
    // The newest, for its URLs.
    if (wanted.has(kindOf(vm)) || wanted.size < mostWanted) wanted.set(kindOf(vm), vm);
  });
  for (let next = [...wanted][0]; next !== undefined; next = [...wanted][0]) {
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof keepTemplates>(id, pace, [...wanted.values()]);
    const [kind, like] = next;
    const place = await reserve(like, pace);
    if (place.kind === 'waits') {
      progress.say('template', `**${kind}** waits since ${now()}: ${place.why}`);
      await sleep(waits(pace).templateRetry);
      continue;
    }
    if (place.kind === 'reserved') wanted.delete(kind);
    await make(id, pace, place, kind, progress, insistence);
  }
}

/** Repeated, it finds what a refused attempt may have taken after all. */
async function reserve(like: VmSpec, pace: number): Promise<TemplatePlace> {
  try {
    return await onLedger(pace).reserveTemplate(like);
  } catch (error) {
    return { kind: 'waits', why: `the ledger refuses it: ${taskErrorOf(error).message}` };
  }
}

/** One template from its room to the end of its VM. What fails is no VM's failure: the next that boots asks again. */
async function make(
  id: HostId,
  pace: number,
  place: Exclude<TemplatePlace, { kind: 'waits' }>,
  kind: string,
  progress: Progress,
  insistence: Insistence,
): Promise<void> {
  const saga = new Saga();
  const [vm, generation] = place.kind === 'left' ? [place.vm, place.generation] : [place.vm.id, place.vm.generation];
  const say = (line: string): void => progress.say('template', `**${kind}** ${line}`);
  const host = onHost(id, pace, { wait: () => say(`waits for ${id}, which does not answer since ${now()}`) });
  const madeBy = async (spec: VmSpec): Promise<void> => {
    say(`is being made since ${now()} by ${vm}`);
    const { key, outcome, bytes } = await onHost(id, pace, 'throw').makeTemplate(spec);
    say(`${outcome} at ${now()}: ${key}, ${Math.round(bytes / 2 ** 20)} MiB`);
  };
  // The room was taken by the ledger before: its step only carries the undo.
  await saga.step(
    'room',
    async () => undefined,
    () => release(vm, pace),
  );
  try {
    await saga.step(
      'make',
      async () => (place.kind === 'reserved' ? madeBy(place.vm) : undefined),
      () => host.removeVm(vm, generation),
    );
  } catch (error) {
    say(`was not made at ${now()}: ${taskErrorOf(error).message}`);
  }
  await CancellationScope.nonCancellable(() =>
    insistence.on(
      async () => {
        const stuck = await saga.unwind();
        if (stuck !== null) throw stuck.error;
      },
      (error) => progress.say('removal', `**${vm} can't be removed** from ${id}: ${taskErrorOf(error).message}`),
    ),
  );
  progress.say('removal', null);
}

async function release(vm: VmId, pace: number): Promise<void> {
  await tellPlaced(await onLedger(pace).releaseVms([vm]));
}
