import type { TaskId, VmId, WaiterId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { Notification } from './ledger-placement.ts';

/** The plan's order to a task's lease. */
export type LeaseOrder = 'run' | 'suspend' | 'resume';

/** What the planner has decided and written: which workflows to notify, and when the next decision is due. */
export interface PlanStep {
  /** Tasks and VMs that were placed, or whose planned term has changed. */
  placed: WaiterId[];
  /** Tasks that have to be suspended or resumed. */
  leaseOrderChanged: TaskId[];
  /** Migrations of suspended work that have to begin. */
  moves: { migration: MigrationId; vm: VmId; generation: number }[];
  /** RFC 3339; null: at the next change. */
  wakeAt: string | null;
  leases: number;
}

export interface LeaseLedger {
  /** Decides what is due by the plan, and writes it. Only the planner calls it. */
  stepPlan(): Promise<PlanStep>;
  loadLeaseOrder(id: TaskId): Promise<LeaseOrder>;
  /** All VMs of the task are suspended. Repeating it changes nothing. */
  recordLeaseSuspended(id: TaskId): Promise<Notification[]>;
  /** All VMs of the task run again. Repeating it changes nothing. */
  recordLeaseResumed(id: TaskId): Promise<Notification[]>;
}
