import type { ErrorCode } from '../model/errors.ts';
import type { HostId, VmId } from '../model/ids.ts';
import type { VmState } from '../model/states.ts';
import type { TaskError } from '../model/task.ts';
import type { Boot, VmSpec } from '../model/vm.ts';
import type { VmOperation } from '../model/vm-request.ts';
import type { CustomizeVm } from './host.ts';
import type { Notification, VmPlacement } from './ledger-placement.ts';

/** Where a VM is, and which migration is under way. */
export interface VmLocation {
  state: VmState;
  host: HostId | null;
  home: HostId | null;
  generation: number;
  migrationWorkflowId: string | null;
}

/** The desired state of a standalone VM, for its saga. */
export interface VmDesired {
  owner: string;
  state: VmState;
  operation: VmOperation | null;
  remove: boolean;
  /** RFC 3339; null: it has no end. */
  leaseEndsAt: string | null;
  /** It runs, and its guest is set up as requested; false: that was begun, or has yet to begin. */
  customized: boolean;
}

export interface VmRemoval {
  /** When its domain ended, by the workflow's clock; null when it never had one. */
  endedAt: string | null;
  /** When this was reported, by the same clock. */
  reportedAt?: string;
  error: TaskError | null;
}

export interface OperationTarget {
  /** With this operation's generation, which is higher than that of every activity before it. */
  vm: VmSpec;
  /** Address of the host that has its disks; null: the one where it runs. */
  diskHostAddress: string | null;
}

/** A drain for which the VM was suspended or restored. */
export interface DrainKey {
  host: HostId;
  number: number;
}

/** The transactions of a standalone VM's saga, and those that tasks' VMs share with it. */
export interface VmLedger {
  loadVmDesired(id: VmId): Promise<VmDesired>;
  reserveVm(id: VmId): Promise<VmPlacement>;
  requeueVm(id: VmId): Promise<Notification[]>;
  issueVmSetup(id: VmId): Promise<CustomizeVm>;
  /** `startedAt` and `reportedAt`, which is now, are by the workflow's clock. */
  recordVmStarted(id: VmId, startedAt: string, boot: Boot, reportedAt?: string): Promise<void>;
  recordVmCustomized(id: VmId, hostKey: string): Promise<void>;
  /** An operation found the VM's domain gone; `agoMs`: since how long, where that is known. */
  recordVmMissing(id: VmId, why: TaskError, agoMs?: number | null): Promise<void>;
  beginOperation(id: VmId, operation: VmOperation): Promise<OperationTarget>;
  beginStart(id: VmId): Promise<OperationTarget>;
  /** Writes the operation's result, or its error for the owner. @returns drains that wait for this operation */
  endOperation(id: VmId, operation: VmOperation, to: VmState | null, error: TaskError | null): Promise<DrainKey[]>;
  finishVm(id: VmId, end: VmRemoval): Promise<Notification[]>;
  /** VMs without a workflow, or with a request that their workflow has not answered for so long. */
  listVmsToNotify(olderThanS: number): Promise<{ id: VmId }[]>;

  /**
   * Begins a suspension, with a new generation. A suspended VM keeps its disks and its address, and frees its processors
   * and its memory.
   */
  beginSuspension(id: VmId): Promise<OperationTarget>;
  commitSuspension(id: VmId): Promise<Notification[]>;
  beginRestoration(id: VmId): Promise<OperationTarget>;
  commitRestoration(id: VmId): Promise<void>;
  /**
   * Returns the VM to its state before the operation. A `lost` one neither runs nor has its memory: `stopped` or `crashed`,
   * by the code of `why`, since `agoMs`; one of a task is `stuck`.
   */
  rollBackSuspension(id: VmId, why: TaskError, lost: boolean, agoMs?: number | null): Promise<Notification[]>;

  /** @returns where the VM is now: it may have moved since its placement */
  setVmState(id: VmId, state: VmState, why?: { code: ErrorCode; message: string }): Promise<VmLocation>;
  loadVmLocation(id: VmId): Promise<VmLocation>;
  /**
   * Frees the VMs' resources and places what waits. It accepts VMs in every state, also those that were never placed: it is
   * called only when nothing of them is left on a host.
   */
  releaseVms(ids: VmId[]): Promise<Notification[]>;
}
