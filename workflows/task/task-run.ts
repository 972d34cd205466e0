import type { RunResult, StagedOut } from '../../contracts/host.ts';
import type { HostCalls, VmRef } from '../../contracts/host-calls.ts';
import type { TaskRecord, TaskStepArgs, VmBoot } from '../../contracts/ledger.ts';
import type { LeaseTerm } from '../../contracts/ledger-placement.ts';
import type { SkippedOutputs } from '../../model/outputs/skipped.ts';
import type { TaskState } from '../../model/states.ts';
import type { TaskError, TaskOutput } from '../../model/task.ts';
import type { Backoff } from '../durable/backoff.ts';
import type { PersistingRun } from '../durable/retry-forever.ts';
import type { Saga } from '../durable/saga.ts';
import { Stopwatch } from '../durable/stopwatch.ts';

/** The state of one task's saga, and its results so far. */
export interface TaskRun extends PersistingRun {
  readonly task: TaskRecord;
  readonly pace: number;
  state: TaskState;
  exitCode: number | null;
  outputs: TaskOutput[];
  /** Nodes whose outputs the ledger has. */
  storedNodes: number[];
  /** By which attempts of stageOut. */
  attempts: string[];
  skipped: SkippedOutputs;
  bytesIn: number;
  bytesOut: number;
  /** Number of signals that one of its VMs has moved. */
  locationChanges: number;
  boots: VmBoot[];
  lease: LeaseRun;
}

/** The task's lease: the state that the plan has brought it to, and how much of its time has passed. */
export interface LeaseRun {
  /** Number of signals that the plan's order has changed. */
  ordersReceived: number;
  state: 'running' | 'suspending' | 'suspended' | 'resuming';
  /** Of a lease with a fixed start; null: its time begins when it runs. */
  term: LeaseTerm | null;
  readonly stopwatch: Stopwatch;
  /** Since suspensions have failed; null: the last one has succeeded. */
  refusedBackoff: Backoff | null;
}

export const newLeaseRun = (): LeaseRun => ({
  ordersReceived: 0,
  state: 'running',
  term: null,
  stopwatch: new Stopwatch(),
  refusedBackoff: null,
});

/** One VM of the task. It has a saga of its own: a VM that can't be removed doesn't block the removal of the others. */
export interface TaskNode {
  readonly run: TaskRun;
  readonly index: number;
  readonly label: string;
  /** Its current placement: host, home and generation change when it moves. */
  vm: VmRef;
  /** Throws when the host is unreachable: before its domain is started, the task can be placed on another host. */
  readonly stagingHost: HostCalls;
  /** Waits for an unreachable host. */
  host: HostCalls;
  readonly saga: Saga;
  /** Arguments for the current step, with fresh URLs; undefined after their use. */
  stepArgs: TaskStepArgs | undefined;
  bytesIn: number;
  createMs: number;
  result: RunResult | null;
  stagedOut: StagedOut | null;
  /** Address of the host that has its disks, as the last suspension or restoration found it; null: the host where it runs. */
  diskHostAddress: string | null;
  startedAt: string | null;
  endedAt: string | null;
  /** The ledger has it in state `removing`, so that no migration of it begins any more. */
  removing: boolean;
  stuck: boolean;
}

export interface Verdict {
  state: 'succeeded' | 'failed' | 'cancelled';
  error: TaskError | null;
}
