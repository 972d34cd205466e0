import type { StagedOut } from '../../contracts/host.ts';
import { noneSkipped, skip } from '../../model/outputs/skipped.ts';
import { allOrCancel, withTimeout } from '../durable/cancellation-scopes.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { timing } from '../durable/timeouts.ts';
import { stopCommand } from './command.ts';
import { recordStagedOut, stageOut } from './stage-out.ts';
import type { TaskNode, TaskRun, Verdict } from './task-run.ts';

/** Ends of a task that cut its command off, with a guest that may still answer. */
const cutOffCodes: ReadonlySet<string> = new Set(['lease-expired', 'task-timeout']);

function isCutOff(run: TaskRun, { state, error }: Verdict): boolean {
  if (state === 'cancelled') return run.state === 'running' || run.state === 'stagingOut';
  return run.state === 'running' && error !== null && cutOffCodes.has(error.code);
}

/**
 * For a task that wants its outputs also when it is cancelled or its time is over: ends the command and stores what it has
 * written by then. The verdict stays; what could not be stored is told with the skipped outputs.
 */
export async function keepOutputs(run: TaskRun, nodes: TaskNode[], verdict: Verdict): Promise<void> {
  const { spec } = run.task;
  if (!spec.keepOutputs || spec.outputs.length === 0 || !isCutOff(run, verdict)) return;
  const limitMs = timing(run.pace).overheadLimitMs;
  const late = () => failure('host-unavailable', `storing them took more than ${limitMs / 1000} s`);
  try {
    await withTimeout(limitMs, late, async () => {
      await allOrCancel(nodes.map((node) => () => stopCommand(node)));
      await stageOut(run, nodes);
    });
  } catch (error) {
    const { code, message } = taskErrorOf(error);
    for (const node of nodes) node.stagedOut ??= nothingStored(`${code}: ${message}`);
    recordStagedOut(run, nodes);
  }
}

function nothingStored(detail: string): StagedOut {
  const skipped = noneSkipped();
  skip(skipped, { path: '', reason: 'refused', detail });
  return { outputs: [], bytes: 0, unmatched: [], skipped, endedAt: null };
}
