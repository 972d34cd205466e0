import type { HostId, ImageId, WaiterId } from '../model/ids.ts';
import type { Refusal } from '../model/task.ts';
import type { VmSpec } from '../model/vm.ts';
import type { VmRef } from './host-calls.ts';

/** To notify after resources were freed: tasks and VMs that were placed; the planner, which alone places while there is a plan. */
export type Notification = WaiterId | 'planner';

/** When a lease's time begins and ends. RFC 3339. */
export interface LeaseTerm {
  startAt: string;
  endAt: string;
}

/** The hosts on which a lease with a fixed start is planned, and whether all of them have its image. */
export interface PrefetchTarget {
  image: ImageId;
  hosts: HostId[];
  complete: boolean;
}

/** Why there is no placement yet. */
interface Waiting {
  placed: false;
  refusal: Refusal;
  term: LeaseTerm | null;
  /** There is a plan, so the planner has to be notified. */
  planActive: boolean;
  prefetch: PrefetchTarget | null;
}

export type Placement = { placed: true; vms: VmRef[]; term: LeaseTerm | null } | (Waiting & { position: number });

export type VmPlacement = { placed: true; vm: VmSpec } | Waiting;
