import type { HostId } from '../model/ids.ts';
import type { VmState } from '../model/states.ts';
import type { TaskError } from '../model/task.ts';
import type { VmSpec } from '../model/vm.ts';
import type { VmOperation } from '../model/vm-request.ts';

/** A drain for which the VM was suspended, or restored. */
export interface DrainKey {
  host: HostId;
  number: number;
}

/** What the workflow of a VM that stands alone has to know, each time that it looks. */
export interface VmDesired {
  owner: string;
  state: VmState;
  operation: VmOperation | null;
  remove: boolean;
  /** null: until it is deleted. */
  leaseEndsAt: string | null;
  customized: boolean;
}

export interface VmRemoval {
  /** When its domain ended, by the workflow; null when it never had one. */
  endedAt: string | null;
  error: TaskError | null;
}

export interface OperationTarget {
  /** With the generation of this operation, which whatever came before it is older than. */
  vm: VmSpec;
  /** Address of the host that has its disks; null: the one where it runs. */
  diskHostAddress: string | null;
}
