import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { openHome } from '../site/home.ts';
import { removeNetwork } from '../site/network.ts';
import { signal } from '../site/processes.ts';
import { until } from '../site/until.ts';
import { processesOfRun } from './leaks.ts';

const orderlyMs = 20_000;
const forcedMs = 10_000;

async function endProcesses(folder: string): Promise<void> {
  const gone = async (name: NodeJS.Signals): Promise<boolean> => {
    const left = await processesOfRun(folder);
    if (name === 'SIGKILL') for (const { pid } of left) signal(pid, name);
    return left.length === 0;
  };
  for (const { pid } of await processesOfRun(folder)) signal(pid, 'SIGTERM');
  try {
    await until('the processes of the test run to end', orderlyMs, () => gone('SIGTERM'));
  } catch {
    // The processes did not end in order within their deadline.
    await until('the processes of the test run to be killed', forcedMs, () => gone('SIGKILL'));
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** The homes of sites, at either of the two depths at which tests put them. */
async function siteHomes(folder: string): Promise<string[]> {
  const names = await readdir(folder, { withFileTypes: true });
  const folders = names
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => [join(folder, name), join(folder, name, 'home')]);
  const found = await Promise.all(folders.map((path) => exists(join(path, 'site.json'))));
  return folders.filter((_, index) => found[index]);
}

/** Removes everything that an interrupted test run left: its processes, its sites' networks, its files. */
export async function sweep(folder: string): Promise<void> {
  await endProcesses(folder);
  for (const home of await siteHomes(folder)) await removeNetwork(openHome(home).tag);
  await rm(folder, { recursive: true, force: true });
}
