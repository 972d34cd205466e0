import type { CancellationScope } from '@temporalio/workflow';
import type { HostActivities } from '../../contracts/host.ts';
import type { EarlierConsole, MigrateOutResult } from '../../contracts/host-migration.ts';
import type { LedgerActivities, MigrationRoute } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { MigrationId, PhaseEntry } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { taskErrorOf } from '../durable/failure.ts';
import type { Progress } from '../durable/progress.ts';
import type { RetryForever } from '../durable/retry-forever.ts';

/** The state of one migration after its admission. */
export interface MigrationRun {
  readonly id: MigrationId;
  readonly vmId: VmId;
  readonly route: MigrationRoute;
  readonly ledger: LedgerActivities;
  readonly source: HostActivities;
  readonly target: HostActivities;
  readonly progress: Progress;
  readonly retry: RetryForever;
  readonly pace: number;
  /** The disks are to follow, and are not at the target yet. */
  readonly moveDisk: boolean;
  readonly convergeWithinS: number;
  readonly phases: PhaseEntry[];
  /** Of a cold migration: the steps that have begun, so that they have to be undone; `interrupted`: those that may have. */
  readonly cold: { suspended: boolean; restoring: boolean; interrupted: boolean };
}

/** Result of a live or a cold attempt, before both hosts were observed. */
export interface MigrationAttempt {
  result: MigrateOutResult;
  error: TaskError | null;
  /** No step of it began at either host. */
  nothingBegun?: boolean;
}

export type MigrationOutcome = 'committed' | 'stayed' | 'lost';

export const noTransfer: MigrateOutResult = { downtimeMs: null, bytes: 0, observed: null, agentAnswered: false };

export const mib = (bytes: number): number => Math.round(bytes / 2 ** 20);

/** The VM as the source has it. */
export const atSource = ({ route }: MigrationRun): VmSpec => ({
  ...route.vm,
  host: route.from.id,
  generation: route.sourceGeneration,
});

/** The VM as the target will have it. */
export const atTarget = ({ route, moveDisk }: MigrationRun): VmSpec => ({
  ...route.vm,
  home: moveDisk ? route.to.id : route.home.id,
});

/** Where the target finds what the guest has written to its console so far. */
export const earlierConsoleOf = ({ route }: MigrationRun): EarlierConsole => ({
  address: route.from.address,
  generation: route.vm.generation,
});

export function abortReason(root: CancellationScope, error: unknown): TaskError {
  if (root.consideredCancelled) return { code: 'migration-aborted', message: 'The migration was aborted before the switch' };
  return taskErrorOf(error);
}
