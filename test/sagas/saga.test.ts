import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshTemporal, startTemporal } from '../services/temporal.ts';
import type { Script } from './saga-workflows.ts';

let temporal: FreshTemporal;
let end: () => Promise<void>;

beforeAll(async () => {
  temporal = await startTemporal();
  const connection = await NativeConnection.connect({ address: temporal.address });
  const workflowsPath = fileURLToPath(new URL('saga-workflows.ts', import.meta.url));
  const workflowBundle = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') });
  const worker = await Worker.create({ connection, namespace: temporal.namespace, taskQueue: 'sagas', workflowBundle });
  const done = worker.run();
  end = async () => {
    worker.shutdown();
    await done;
    await connection.close();
    await temporal.stop();
  };
});
afterAll(() => end());

const start = (type: string, args: unknown[] = []) =>
  temporal.client.workflow.start(type, { taskQueue: 'sagas', workflowId: randomUUID(), args });
const logOf = async (type: string, script?: Script): Promise<string[]> =>
  (await start(type, script === undefined ? [] : [script])).result();

test('undos run last in first out', async () => {
  expect(await logOf('threeSteps', { acts: [], undos: [] })).toEqual([
    'act one',
    'act two',
    'act three',
    'undo three',
    'undo two',
    'undo one',
  ]);
});

test('a step that failed is undone as well, because how far it came is not known', async () => {
  expect(await logOf('threeSteps', { acts: ['two'], undos: [] })).toEqual([
    'act one',
    'act two',
    'failed two',
    'undo two',
    'undo one',
  ]);
});

test('an undo that fails stops the unwinding, and a later unwinding continues there', async () => {
  expect(await logOf('threeSteps', { acts: ['three'], undos: ['two'] })).toEqual([
    'act one',
    'act two',
    'act three',
    'failed three',
    'undo three',
    'undo two',
    'stuck two',
    'undo two',
    'undo one',
  ]);
});

test('a cancellation does not reach the undos', async () => {
  const handle = await start('cancelledStep');
  await handle.cancel();
  expect(await handle.result()).toEqual(['cancelled true', 'undone']);
});

test('the first failure stops the others, and arrives when they have stopped', async () => {
  const log = await logOf('oneOfThreeFails');
  expect(log.slice(0, 2).sort()).toEqual(['first stopped', 'third stopped']);
  expect(log[2]).toBe('the second');
});

test('an act that exceeds its time limit is stopped; one within it is not', async () => {
  expect(await logOf('tooLate')).toEqual(['stopped', 'late', 'in time']);
});
