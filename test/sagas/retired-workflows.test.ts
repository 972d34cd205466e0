import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { controlQueue, workflowType } from '../../model/temporal.ts';
import { retiredWorkflowsText } from '../../workers/retired-workflows.ts';
import { type FreshTemporal, startTemporal } from '../services/temporal.ts';

let temporal: FreshTemporal;

beforeAll(async () => {
  temporal = await startTemporal();
});
afterAll(() => temporal.stop());

const start = (type: string) =>
  temporal.client.workflow.start(type, { taskQueue: controlQueue, workflowId: randomUUID(), args: [] });
const text = () => retiredWorkflowsText(temporal.client);

test('a namespace with running workflows of 0.1 is refused, until they have been terminated', async () => {
  expect(await text()).toBeNull();
  await start(workflowType.housekeeping);
  const old = await start('keepHouse');
  await expect.poll(text).toContain('1 workflows of Berth 0.1');
  expect(await text()).toContain(temporal.namespace);
  await old.terminate();
  await expect.poll(text).toBeNull();
});
