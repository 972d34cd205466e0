import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { lightenWorkflowThreads } from '../../../workers/workflow-threads/lighten.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-threads-'));
  lightenWorkflowThreads();
});
afterAll(() => rm(folder, { recursive: true }));

/** Whether promises of a thread have hooks, that is started as the SDK starts its own. */
async function hasHooks(name: string): Promise<boolean> {
  const file = join(folder, name);
  await writeFile(
    file,
    `const hooked = [];
     require('node:v8').promiseHooks.createHook({ init: (promise) => hooked.push(promise) });
     Promise.resolve().then(() => 1);
     require('node:worker_threads').parentPort.postMessage(hooked.length > 0);`,
  );
  const { Worker } = createRequire(import.meta.url)('node:worker_threads') as typeof import('node:worker_threads');
  const thread = new Worker(file);
  const [answer] = (await once(thread, 'message')) as [boolean];
  await thread.terminate();
  return answer;
}

test('threads that run workflows keep no stack trace for each promise, and others are as they were', async () => {
  expect(await hasHooks('workflow-worker-thread.js')).toBe(false);
  expect(await hasHooks('another-thread.js')).toBe(true);
});
