import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { openHome } from '../../infra/site/home.ts';
import { removeNetwork } from '../../infra/site/network.ts';
import { processesOfSite, signal } from '../../infra/site/processes.ts';
import { until } from '../../infra/site/until.ts';

/**
 * `node test/clean-machine/remove.ts HOME`: waits until its standard input ends, as it does when the process that started
 * it closes it or is gone, and removes the clean machine at HOME: its processes, its network, its files. A process of
 * its own, so that it is done as well when the test run is killed.
 */
const home = openHome(process.argv[2]!);
// A test run's sweep sends this to all of its processes, and waits.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => undefined);
process.stdin.resume();
await once(process.stdin, 'end');
// PID 1 of the machine has the site's marker. When it has ended, so have all others of its PID namespace, and all mounts.
await until('the processes of the clean machine to end', 30_000, () => {
  const left = processesOfSite(home.path);
  for (const pid of left) signal(pid, 'SIGKILL');
  return left.length === 0;
});
await removeNetwork(home.tag);
await rm(home.path, { recursive: true, force: true, maxRetries: 10, retryDelay: 500 });
