import { Context } from '@temporalio/activity';
import type { HostActivities, RunCommand, StagedOut, StageIn, StageOut } from '../../contracts/host.ts';
import type { FetchedStep, FetchedStepArgs, HostCalls, VmRef } from '../../contracts/host-calls.ts';
import type { VmSpec } from '../../model/vm.ts';

/** Fetches what this host needs of a VM and a step. Throws `orders-unavailable` where the API does not answer. */
export type FetchStepArgs = (vm: VmRef, step: FetchedStep, signal: AbortSignal) => Promise<FetchedStepArgs>;

/** Sagas of before send the whole. */
const isWhole = (vm: VmRef): vm is VmSpec => 'network' in vm;

/**
 * The activities of a host as sagas call them: each fetches what its call only refers to, at every attempt, so that its URLs
 * are fresh.
 */
export function byReference(activities: HostActivities, fetchStepArgs: FetchStepArgs): HostCalls {
  const fetchFor = async (ref: VmRef, step: FetchedStep): Promise<FetchedStepArgs> => {
    const fetched = await fetchStepArgs(ref, step, Context.current().cancellationSignal);
    const { host, home, generation } = ref;
    return { ...fetched, vm: { ...fetched.vm, host, home, generation } };
  };
  const referenced: Record<string, unknown> = {};
  for (const [name, act] of Object.entries(activities))
    referenced[name] = async (...args: unknown[]) => {
      const call = act as (...args: unknown[]) => Promise<unknown>;
      const [first, ...rest] = args;
      const ref = refIn(first);
      if (ref === null || isWhole(ref)) return call(...args);
      const result = await call(complete(name, first as object, await fetchFor(ref, stepOf(name))), ...rest);
      return name === 'stageOut' ? withoutList(result as StagedOut) : result;
    };
  return referenced as HostCalls;
}

/** Thousands of names are too much for a history. Storing an output wrote its row, from which the end of the task reads it. */
const withoutList = ({ outputs, ...staged }: StagedOut): StagedOut => ({ ...staged, outputs: [], stored: outputs.length });

/** The reference of an activity's first argument; null: it has none. */
function refIn(argument: unknown): VmRef | null {
  if (typeof argument !== 'object' || argument === null) return null;
  if ('vm' in argument) return argument.vm as VmRef;
  return 'generation' in argument && 'image' in argument ? (argument as VmRef) : null;
}

const stepOf = (activity: string): FetchedStep =>
  activity === 'stageIn' || activity === 'stageOut' ? activity : activity === 'runCommand' ? 'run' : 'vm';

function complete(activity: string, argument: object, { vm, stageIn, run, stageOut }: FetchedStepArgs): object {
  if (!('vm' in argument)) return vm;
  if (activity === 'stageIn' && stageIn !== undefined) return { ...(argument as StageIn), vm, inputs: stageIn.inputs };
  if (activity === 'stageOut' && stageOut !== undefined) return { ...(argument as StageOut), vm, ...stageOut };
  if (activity === 'runCommand' && run !== undefined) {
    const { logUrl, ...command } = run;
    const { timeoutS, log } = argument as RunCommand;
    return { vm, ...command, timeoutS, log: { ...log, url: logUrl } };
  }
  return { ...argument, vm };
}
