import { WorkflowNotFoundError } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openWorkflowClient, type WorkflowClient } from '../../api/temporal.ts';
import { newId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { type FreshTemporal, startTemporal } from '../services/temporal.ts';
import { type RunningTemporal, startTemporalServer } from '../services/temporal-server.ts';

let server: RunningTemporal;
let temporal: FreshTemporal;
let workflows: WorkflowClient;
beforeAll(async () => {
  server = await startTemporalServer();
  process.env.TEMPORAL_ADDRESS = server.address;
  temporal = await startTemporal();
  workflows = openWorkflowClient(temporal.client);
});
afterAll(async () => {
  await temporal.stop();
  await server.stop();
});

const describe = (id: string) => temporal.client.workflow.getHandle(id).describe();

test('a task is started as the workflow that control workers run, once', async () => {
  const id = newId('task');
  await workflows.startTask(id);
  const first = await describe(workflowId.task(id));
  expect(first).toMatchObject({ type: workflowType.task, taskQueue: controlQueue, status: { name: 'RUNNING' } });
  await workflows.startTask(id);
  expect((await describe(workflowId.task(id))).runId).toBe(first.runId);
});

test('a workflow that has ended is not started again', async () => {
  const id = newId('task');
  await workflows.startTask(id);
  await temporal.client.workflow.getHandle(workflowId.task(id)).terminate();
  await workflows.startTask(id);
  expect((await describe(workflowId.task(id))).status.name).toBe('TERMINATED');
});

test('a cancel reaches the workflow, and may be repeated', async () => {
  const id = newId('task');
  await workflows.startTask(id);
  await workflows.cancelTask(id);
  await workflows.cancelTask(id);
  const { events } = await temporal.client.workflow.getHandle(workflowId.task(id)).fetchHistory();
  const requests = events?.filter((event) => event.workflowExecutionCancelRequestedEventAttributes);
  expect(requests).toHaveLength(1);
});

test('a cancel of a task that was never started starts it: only its workflow may end it', async () => {
  const id = newId('task');
  await expect(describe(workflowId.task(id))).rejects.toThrow(WorkflowNotFoundError);
  await workflows.cancelTask(id);
  expect((await describe(workflowId.task(id))).status.name).toBe('RUNNING');
});

test('the housekeeping is notified of free capacity', async () => {
  const id = workflowId.housekeeping();
  await temporal.client.workflow.start(workflowType.housekeeping, { workflowId: id, taskQueue: controlQueue });
  await workflows.notifyHousekeeping();
  const { events } = await temporal.client.workflow.getHandle(id).fetchHistory();
  const signals = events?.flatMap(({ workflowExecutionSignaledEventAttributes: signal }) => signal?.signalName ?? []);
  expect(signals).toEqual([signalName.wakeUp]);
});

test('a cancel of a task that has ended does nothing', async () => {
  const id = newId('task');
  await workflows.startTask(id);
  await temporal.client.workflow.getHandle(workflowId.task(id)).terminate();
  await workflows.cancelTask(id);
  expect((await describe(workflowId.task(id))).status.name).toBe('TERMINATED');
});
