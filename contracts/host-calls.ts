import type { LoadSettings } from '../model/load/load.ts';
import type { ImageRef, VmSpec } from '../model/vm.ts';
import type { HostActivities, InputFile, RunCommand, StageIn, StageOut } from './host.ts';

/**
 * A VM as a saga knows it: which one, where, and of which placement. What else its host needs, the host fetches itself, so
 * that a history has neither what is large nor a URL that expires. A VmSpec is one as well.
 */
export interface VmRef extends Pick<VmSpec, 'id' | 'host' | 'home' | 'generation' | 'vcpus' | 'memoryMiB'> {
  image: Pick<ImageRef, 'id' | 'name'>;
}

/** The steps of a task, without what a host fetches for them. A build's and a VM's own have the whole. */
export type StageInCall = StageIn | (Pick<StageIn, 'limits'> & { vm: VmRef });
export type RunCall = RunCommand | (Pick<RunCommand, 'timeoutS'> & { vm: VmRef; log: Pick<RunCommand['log'], 'limitBytes'> });
export type StageOutCall = Omit<StageOut, 'vm' | 'patterns' | 'uploadUrl'> & { vm: VmRef };

/** For which step a host fetches; `vm`: only what makes and keeps the VM. */
export const fetchedSteps = ['vm', 'stageIn', 'run', 'stageOut'] as const;
export type FetchedStep = (typeof fetchedSteps)[number];

/** Addresses of all hosts and edges of the site: the same for each VM, and a thousand of them. */
export interface MachineListAnswer {
  version: string;
  /** null: the host has this version. */
  addresses: string[] | null;
  /** Its own one. */
  here: string;
  /** What its worker does about its load; an API process of before says nothing. */
  load?: LoadSettings | undefined;
}

/** What a host fetches: the VM, and what belongs to the step. */
export interface FetchedStepArgs {
  vm: VmSpec;
  stageIn?: { inputs: InputFile[] };
  run?: { command: string[]; env: Record<string, string>; logUrl: string; keepOutputs?: boolean };
  stageOut?: { patterns: string[]; uploadUrl: string };
}

type Referenced<A> = A extends VmSpec
  ? VmRef
  : A extends StageIn
    ? StageInCall
    : A extends RunCommand
      ? RunCall
      : A extends StageOut
        ? StageOutCall
        : A extends { vm: VmSpec }
          ? Omit<A, 'vm'> & { vm: VmRef }
          : A;

type ReferencedAll<P extends unknown[]> = { [I in keyof P]: Referenced<P[I]> };

/** The activities on one host as sagas call them. Those of activities/host have the whole of their arguments. */
export type HostCalls = {
  [K in keyof HostActivities]: (...args: ReferencedAll<Parameters<HostActivities[K]>>) => ReturnType<HostActivities[K]>;
};
