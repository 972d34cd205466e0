import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openLog } from '../../model/log.ts';
import { workflowBundle } from '../../workers/workflow-bundle.ts';

/** The name of the variable with the folder in which the bundle of the workflows is kept. */
export const bundlesVariable = 'BERTH_TEST_BUNDLES';

/** Global set-up of a vitest project: the workflows are bundled once for all of its files; each would take seconds for it. */
export default async function withBundles(): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-bundles-'));
  await workflowBundle(folder, openLog('test', 'error'));
  process.env[bundlesVariable] = folder;
  return () => rm(folder, { recursive: true, force: true });
}
