import type { DrainStrategy, SuspendInPlace } from '../../model/drain.ts';
import type { GroupMembers, VmRules } from '../constraints.ts';
import type { TargetHost } from '../migration-target.ts';
import type { MigrationModel } from './migration-model.ts';
import type { Load, MoveMode } from './migration-operations.ts';

/** The input of a drain's plan. */

/** One VM of the host that is drained. */
export interface DrainVm {
  id: string;
  vcpus: number;
  memoryMiB: number;
  load: Load;
  /** It is suspended: it uses neither vCPUs nor memory, and only a cold migration can move it. */
  suspended?: boolean;
  /** It is paused: only a live migration moves it paused, and that converges. */
  paused?: boolean;
  /** It has no domain: it keeps its vCPUs and memory reserved, and only a cold migration moves its disks. */
  ended?: boolean;
  /** The backing image of its disk and the hosts that have it; null: none. */
  image?: { id: string; mib: number; at: readonly string[] } | null;
  /** Absent: it may run anywhere. */
  rules?: VmRules | null;
  /** Disks on the drained host that must move; null: none. */
  disks?: { diskMiB: number; runsAt: string } | null;
  /**
   * `movable` now; `moving` already, for this drain or at another request; `suspending` for this drain; `settling`: it is
   * being created, or another operation removes it from the host; `fixed`: it can't move, for the reason in `why`, but may
   * be suspended in place where it is `suspendable`.
   */
  phase:
    | { kind: 'movable' }
    | { kind: 'moving'; sinceMs: number; to: string | null; mode: PlannedMode }
    | { kind: 'suspending'; sinceMs: number }
    | { kind: 'settling'; why: string }
    | { kind: 'fixed'; why: string; suspendable?: boolean };
  /** The end of its lease's or command's time; null: it has none. */
  endsByMs: number | null;
  /** Why it can't be suspended on its host; null: it can, or is suspended already. */
  cannotSuspendReason: string | null;
  /** Its failed migrations during this drain: the target and the error. */
  failed: { to: string; why: string; converges: boolean }[];
}

/** A possible target. A missing image is no obstacle: the drain sends it first. */
export type DrainTarget = Omit<TargetHost, 'hasImage' | 'arriving' | 'leaving'> & {
  /** VMs that this drain has moved there so far. */
  given: number;
};

export interface DrainPlanInput {
  nowMs: number;
  deadlineMs: number;
  host: string;
  strategy: DrainStrategy;
  /** The probability with which the host is empty by the deadline, e.g. 0.99. */
  confidence: number;
  /** VMs that have to leave; those that this drain has suspended in place don't. */
  vms: readonly DrainVm[];
  hosts: readonly DrainTarget[];
  /** Of the groups of the VMs' rules, on all hosts. Absent: they have none. */
  members?: GroupMembers;
  suspendInPlace: SuspendInPlace;
  modes: readonly MoveMode[];
  model: MigrationModel;
}

/** `disks`: only the disks, of a VM that runs on another host already. */
export type PlannedMode = MoveMode | 'disks';

export interface PlannedMove {
  vm: string;
  to: string;
  mode: PlannedMode;
  /** Its disks move with it. */
  withDisks: boolean;
  meanS: number;
  /** From its move until it is as busy as before; not part of the drain's time. null: unknown, or it is not disturbed. */
  recoveryS: number | null;
}

/** Its disks are on the drained host, and it runs on another. */
export const isDiskMoveOnly = ({ disks }: DrainVm, host: string): boolean => disks != null && disks.runsAt !== host;
