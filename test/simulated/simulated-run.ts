import vm from 'node:vm';
import { TypedSearchAttributes } from '@temporalio/common';
import type { Workflow } from '@temporalio/worker/lib/workflow/interface.js';
import { ReusableVMWorkflowCreator } from '@temporalio/worker/lib/workflow/reusable-vm.js';
import { bundle } from '../sagas/fake-site.ts';

/** One run of a workflow in the SDK's own sandbox, without a worker. */
export type SimulatedRun = Workflow;

/** A workflow's code may run for so long without waiting. */
const sandboxMs = 30_000;

let creator: Promise<ReusableVMWorkflowCreator> | undefined;

/** Without the SDK's own start, which watches each promise of this process for its stack. */
async function openCreator(): Promise<ReusableVMWorkflowCreator> {
  const { code } = (await bundle()) as { code: string };
  const filename = '/workflows.js';
  const sourceMap = { version: 3, file: filename, sources: [], names: [], mappings: '' };
  const bundled = { code, filename, sourceMap } as unknown as ConstructorParameters<typeof ReusableVMWorkflowCreator>[1];
  // Which names there are is the worker's to check.
  return new ReusableVMWorkflowCreator(new vm.Script(code, { filename }), bundled, sandboxMs, new Set(['default']));
}

export async function createWorkflow(run: { type: string; id: string; runId: string; nowMs: number }): Promise<SimulatedRun> {
  creator ??= openCreator();
  const { type, id, runId, nowMs } = run;
  const info = {
    workflowId: id,
    runId,
    workflowType: type,
    searchAttributes: {},
    typedSearchAttributes: new TypedSearchAttributes(),
    taskQueue: 'control',
    namespace: 'simulation',
    firstExecutionRunId: runId,
    originalExecutionRunId: runId,
    startTime: new Date(nowMs),
    runStartTime: new Date(nowMs),
    taskTimeoutMs: 10_000,
    attempt: 1,
    historyLength: 3,
    historySize: 0,
    continueAsNewSuggested: false,
    targetWorkerDeploymentVersionChanged: false,
    unsafe: { now: Date.now, isReplaying: false, isReplayingHistoryEvents: false, random: Math.random },
  };
  const options = { info, randomnessSeed: [1, 2, 3, 4], now: nowMs, showStackTraceSources: false };
  return (await creator).createWorkflow(options as unknown as Parameters<ReusableVMWorkflowCreator['createWorkflow']>[0]);
}
