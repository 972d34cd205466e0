import { join } from 'node:path';
import { type Host, hostName, startHost } from './host/host.ts';
import { applyMachineRules, machineRules } from './network.ts';
import { acquireSiteBase, type SiteBase } from './site-base.ts';

/** Hosts without a ledger, Temporal or workers. For tests of what runs on a host. */
export interface BareHosts {
  hosts: Host[];
  stop: () => Promise<void>;
}

export async function startBareHosts(homePath: string, count: number, note: (text: string) => void): Promise<BareHosts> {
  const ground = await acquireSiteBase(homePath, note);
  const hosts: Host[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(hosts.map((host) => host.stop()));
    await ground.release();
  };
  try {
    await applyMachineRules(machineRules(ground.home.tag, ground.network, { gateway: [], local: [] }));
    for (let index = 1; index <= count; index += 1) hosts.push(startHost(hostOptions(ground, index, count, note)));
    await Promise.all(hosts.map((host) => host.ready));
    return { hosts, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function hostOptions(
  ground: SiteBase,
  index: number,
  count: number,
  note: (text: string) => void,
): Parameters<typeof startHost>[0] {
  const { home, network, cache, env } = ground;
  const place = { role: 'host' as const, home, network, index, count, edges: 0, libvirtCache: join(cache, 'libvirt') };
  return { ...place, env, worker: null, note };
}

if (import.meta.main) {
  const started = Date.now();
  const note = (text: string): void => console.error(`${((Date.now() - started) / 1000).toFixed(2).padStart(7)} s  ${text}`);
  const count = Number(process.env.BERTH_HOSTS ?? 3);
  const bareHosts = await startBareHosts(process.env.BERTH_HOME ?? '.berth-hosts', count, note);
  for (const host of bareHosts.hosts) note(`${host.id} at ${host.address}, PID ${host.pid()}`);
  note(`ready; the first is ${hostName(1)}`);
  await new Promise<void>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => resolve());
  });
  await bareHosts.stop();
  note('stopped');
}
