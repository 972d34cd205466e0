import { CancellationScope, continueAsNew, defineSignal, setHandler, sleep } from '@temporalio/workflow';
import type { HostCalls, VmRef } from '../../contracts/host-calls.ts';
import type { TemplatePlacement } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName } from '../../model/temporal.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever, unwindForever } from '../durable/retry-forever.ts';
import { Saga } from '../durable/saga.ts';
import { runStep, type Step, type StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';

/** One template: the VM that becomes it, or, where `spec` is null, what an earlier attempt left of one. */
interface TemplateBuild {
  readonly vm: VmId;
  readonly generation: number;
  readonly spec: VmSpec | null;
  readonly host: HostCalls;
  readonly pace: number;
  readonly show: (line: string) => void;
}

const reserveStep: Step<TemplateBuild> = {
  name: 'reserve',
  does: 'places a VM without an owner in the ledger (reserveTemplate)',
  // The placement came first, because it decides which VM this is: the step registers its undo.
  act: async () => undefined,
  undo: async ({ vm, pace }) => notifyWaiters(await onLedger(pace).releaseVms([vm])),
  undoneBy: 'releaseVms',
};

const buildStep: Step<TemplateBuild> = {
  name: 'build',
  does: 'boots the VM, waits until it is idle, saves and seals its memory (buildTemplate)',
  act: buildTemplate,
  undo: ({ host, vm, generation }) => host.removeVm(vm, generation),
  undoneBy: 'removeVm',
};

export const templateSteps: readonly StepRow[] = [
  reserveStep,
  buildStep,
  {
    name: 'remove',
    does: 'runs the undos above, also after success: the template is no part of its VM any more',
    undoneBy: 'nothing: it is retried without limit',
  },
];

const templateRequestedSignal = defineSignal<[VmRef]>(signalName.templateRequested);

/** Bound on the requests that wait. A VM that boots without a template requests it again. */
const maxPending = 32;

/** Groups requests for one template, as far as the ledger knows; the host decides exactly. */
const templateKind = ({ image, vcpus, memoryMiB }: VmRef): string => `${image.name} (${image.id}), ${vcpus} × ${memoryMiB} MiB`;

/**
 * Builds the templates that were requested on one host, one at a time, on capacity that no task waits for. The first VM that
 * booted without a template starts it (request-template.ts), others signal it; it ends when no request is left.
 */
export async function buildTemplates(id: HostId, pace = 1, pending: VmRef[] = []): Promise<void> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const retry = new RetryForever(pace);
  const pendingByKind = new Map(pending.map((vm) => [templateKind(vm), vm]));
  setHandler(templateRequestedSignal, (vm) => {
    // The newest request replaces an older one: its VM is the more likely to be there still.
    if (pendingByKind.has(templateKind(vm)) || pendingByKind.size < maxPending) pendingByKind.set(templateKind(vm), vm);
  });
  for (let next = [...pendingByKind][0]; next !== undefined; next = [...pendingByKind][0]) {
    if (isHistoryLong()) await continueAsNew<typeof buildTemplates>(id, pace, [...pendingByKind.values()]);
    const [kind, like] = next;
    const placement = await reserveOne(like, pace);
    const show = (line: string): void => progress.setDetail('template', `**${kind}** ${line}`);
    if (placement.kind === 'waits') {
      show(`waits since ${isoNow()}: ${placement.reason}`);
      await sleep(timing(pace).templateRetryMs);
      continue;
    }
    if (placement.kind === 'reserved') pendingByKind.delete(kind);
    const spec = placement.kind === 'reserved' ? placement.vm : null;
    const [vm, generation] =
      placement.kind === 'left' ? [placement.vm, placement.generation] : [placement.vm.id, placement.vm.generation];
    const host = onHost(id, pace, { wait: () => show(`waits for ${id}, which does not answer since ${isoNow()}`) });
    await buildOne(id, { vm, generation, spec, host, pace, show }, progress, retry);
  }
}

/** Repeatable: it finds what an attempt without an answer has reserved. */
async function reserveOne(like: VmRef, pace: number): Promise<TemplatePlacement> {
  try {
    return await onLedger(pace).reserveTemplate(like);
  } catch (error) {
    return { kind: 'waits', reason: `the ledger refuses it: ${taskErrorOf(error).message}` };
  }
}

/** Builds one template and removes its VM. A failure is shown only: the next VM that boots requests the template again. */
async function buildOne(id: HostId, build: TemplateBuild, progress: Progress, retry: RetryForever): Promise<void> {
  const saga = new Saga();
  await runStep(saga, reserveStep, build);
  try {
    await runStep(saga, buildStep, build);
  } catch (error) {
    build.show(`was not built at ${isoNow()}: ${taskErrorOf(error).message}`);
  }
  await CancellationScope.nonCancellable(() =>
    unwindForever(saga, retry, (error) =>
      progress.setDetail('removal', `**${build.vm} can't be removed** from ${id}: ${taskErrorOf(error).message}`),
    ),
  );
  progress.setDetail('removal', null);
}

async function buildTemplate({ spec, vm, pace, show }: TemplateBuild): Promise<void> {
  if (spec === null) return;
  show(`is built since ${isoNow()} by ${vm}`);
  const { key, outcome, bytes } = await onHost(spec.host, pace, 'throw').buildTemplate(spec);
  show(`${outcome} at ${isoNow()}: ${key}, ${Math.round(bytes / 2 ** 20)} MiB`);
}
