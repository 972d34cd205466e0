import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, type WorkflowBundle } from '@temporalio/worker';
import type { Logger } from '../model/log.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
/** The folders of the workflows' code and of what it may import at run time. */
const sources = ['workflows', 'model'] as const;

/**
 * The workflows' code as one bundle, for a worker. Bundling takes seconds of a processor, so the bundle is cached in
 * `folder` under the digest of all that it depends on.
 * @param folder null: no cache
 */
export async function workflowBundle(folder: string | null, log: Logger): Promise<WorkflowBundle> {
  if (folder === null) return bundle(log);
  const path = join(folder, `workflows-${await digestOfSources()}.js`);
  try {
    return { code: await readFile(path, 'utf8') };
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  const made = await bundle(log);
  await mkdir(folder, { recursive: true });
  // Concurrent processes write the same content.
  const partial = `${path}.${process.pid}.tmp`;
  await writeFile(partial, made.code);
  await rename(partial, path);
  return made;
}

async function bundle(log: Logger): Promise<{ code: string }> {
  const startedMs = performance.now();
  const quiet = (): void => undefined;
  const { code } = await bundleWorkflowCode({
    workflowsPath: join(root, 'workflows', 'index.ts'),
    logger: {
      log: quiet,
      trace: quiet,
      debug: quiet,
      info: quiet,
      warn: (text) => log.warn(text),
      error: (text) => log.error(text),
    },
  });
  log.info({ seconds: (performance.now() - startedMs) / 1000, bytes: code.length }, 'bundled the workflows');
  return { code };
}

async function digestOfSources(): Promise<string> {
  const hash = createHash('sha256');
  // The lock file identifies the SDK's parts in the bundle.
  hash.update(await readFile(join(root, 'package-lock.json')));
  for (const folder of sources) {
    const names = await readdir(join(root, folder), { recursive: true });
    for (const name of names.filter((file) => file.endsWith('.ts')).sort())
      hash.update(`${folder}/${name}\0`).update(await readFile(join(root, folder, name)));
  }
  return hash.digest('hex').slice(0, 32);
}
