import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openLog } from '../../model/log.ts';
import { workflowBundle } from '../../workers/workflow-bundle.ts';

/** The name of the variable that holds the folder of the bundled workflows. */
export const bundlesVariable = 'BERTH_TEST_BUNDLES';

/**
 * Global set-up of a vitest project: the workflows are bundled once for all of its files; each file would spend seconds on
 * it.
 */
export default async function withBundles(): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-bundles-'));
  await workflowBundle(folder, openLog('test', 'error'));
  process.env[bundlesVariable] = folder;
  return () => rm(folder, { recursive: true, force: true });
}
