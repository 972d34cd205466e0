import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../drivers/host/run-process.ts';

/** The packages before `npm run setup`, as README requires them: the distribution's Node and npm. */
const packages = ['npm'];
const buildDeadlineMs = 15 * 60_000;

export const cacheFolder = (): string =>
  process.env.BERTH_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'berth');

async function release(): Promise<string> {
  const codename = /^VERSION_CODENAME=(\w+)$/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1];
  if (codename === undefined) throw new Error('/etc/os-release has no VERSION_CODENAME: the clean root is made of its release');
  return codename;
}

/** The lines of sources.list of the machine's own archives for its release, with their updates and security fixes. */
async function archives(codename: string): Promise<string> {
  const format = 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)';
  const found = await run(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages'], { deadlineMs: 30_000 });
  const suites = ['', '-updates', '-security'].map((suffix) => codename + suffix);
  const lines = new Set(found.split('\n').filter((line) => suites.includes(line.split(' ')[2] ?? '')));
  if (lines.size === 0) throw new Error(`apt knows no archive of ${codename}; apt-get update fetches its lists`);
  return `${[...lines].join('\n')}\n`;
}

/**
 * A minimal root of this machine's release with `packages`, made once and kept in BERTH_CACHE. Its name covers the
 * release, the archives and the packages, not their versions: remove the folder to get newer ones.
 */
export async function baseRoot(signal: AbortSignal): Promise<string> {
  const codename = await release();
  const sources = await archives(codename);
  const digest = createHash('sha256')
    .update(JSON.stringify([codename, sources, packages]))
    .digest('hex')
    .slice(0, 16);
  const parent = join(cacheFolder(), 'clean-machine');
  const root = join(parent, `${codename}-${digest}`);
  if (existsSync(root)) return root;
  await mkdir(parent, { recursive: true });
  const partial = await mkdtemp(join(parent, '.partial-'));
  try {
    const made = join(partial, 'root');
    const options = ['--variant=minbase', '--mode=root', '--quiet', `--include=${packages.join(',')}`];
    // In a mount namespace of its own: no mount remains however it ends.
    const argv = ['unshare', '--mount', '--propagation', 'private', '--', 'mmdebstrap', ...options, codename, made, '-'] as const;
    await run([...argv], { deadlineMs: buildDeadlineMs, input: sources, signal });
    await rename(made, root);
    return root;
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}
