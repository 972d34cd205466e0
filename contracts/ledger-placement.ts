import type { HostId, ImageId } from '../model/ids.ts';
import type { Refusal } from '../model/task.ts';
import type { VmSpec } from '../model/vm.ts';

/** When a lease's time begins, and ends, on the clock of the wall. */
export interface LeaseTerm {
  startAt: string;
  endAt: string;
}

/** The hosts on which a promised lease is planned, and whether all of them have its image. */
export interface PrefetchTarget {
  image: ImageId;
  hosts: HostId[];
  complete: boolean;
}

export type Placement =
  | { placed: true; vms: VmSpec[]; term: LeaseTerm | null }
  | {
      placed: false;
      refusal: Refusal;
      position: number;
      term: LeaseTerm | null;
      /** While there is a plan, the planner is to hear of who waits. */
      planActive: boolean;
      prefetch: PrefetchTarget | null;
    };

export type VmPlacement =
  | { placed: true; vm: VmSpec }
  | { placed: false; refusal: Refusal; term: LeaseTerm | null; planActive: boolean; prefetch: PrefetchTarget | null };
