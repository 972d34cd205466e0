import { homedir } from 'node:os';
import { join } from 'node:path';
import { type Home, lockHome, openHome, readRecord, type SiteRecord, writeRecord } from './home.ts';
import { createNetwork, freePort, isFree, removeNetwork, type SiteNetwork } from './network.ts';
import { processesOfSite, signal, siteMarker } from './processes.ts';
import { until } from './until.ts';

/** The basis of a site: the lock on its home, and a separate network on this machine. */
export interface SiteBase {
  home: Home;
  network: SiteNetwork;
  /** The environment of every process of the site: this process's with the marker added, without secrets of other parts. */
  env: Record<string, string>;
  /** What all sites on this machine share, because it takes long to make. */
  cache: string;
  /** A free port on all the addresses; the last run's if it is still free. */
  port: (name: string, addresses: readonly string[], wish?: PortPreference) => Promise<number>;
  release: () => Promise<void>;
}

export interface PortPreference {
  /** Exactly this port; 0: no requirement. */
  required?: number;
  /** This port at the first start, if it is free. */
  preferred?: number;
}

/**
 * Locks the home, removes what an earlier run of it left on the machine, and makes its network.
 * @param note receives messages about what was found
 */
export async function acquireSiteBase(homePath: string, note: (text: string) => void): Promise<SiteBase> {
  const home = openHome(homePath);
  const lock = await lockHome(home);
  try {
    const left = await endLeftovers(home.path);
    if (left > 0) note(`ended ${left} processes that an earlier run had left`);
    await removeNetwork(home.tag);
    const record: SiteRecord = { ...readRecord(home), supervisorPid: process.pid };
    writeRecord(home, record);
    const network = await createNetwork(home.tag, record.subnet);
    record.subnet = network.subnet;
    writeRecord(home, record);
    return {
      home,
      network,
      env: siteEnvironment(home),
      cache: process.env.BERTH_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'berth'),
      port: (name, addresses, wish = {}) => allocatePort(home, record, name, addresses, wish),
      release: async () => {
        await removeNetwork(home.tag);
        lock.close();
      },
    };
  } catch (error) {
    lock.close();
    throw error;
  }
}

async function allocatePort(
  home: Home,
  record: SiteRecord,
  name: string,
  addresses: readonly string[],
  { required: requested = 0, preferred: usual }: PortPreference,
): Promise<number> {
  const taken = new Set(Object.entries(record.ports).flatMap(([other, port]) => (other === name ? [] : [port])));
  if (requested !== 0) {
    const free = await Promise.all(addresses.map((address) => isFree(address, requested)));
    if (!free.every(Boolean))
      throw new Error(`Port ${requested}, asked for as the port of ${name}, is in use on ${addresses.join(' or ')}`);
  }
  const port = requested !== 0 ? requested : await freePort(addresses, record.ports[name] ?? usual, taken);
  record.ports[name] = port;
  writeRecord(home, record);
  return port;
}

/** Excludes secrets, which each part receives by name, and settings of another Temporal or of an enclosing test runner. */
function siteEnvironment(home: Home): Record<string, string> {
  const own = Object.entries(process.env).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined &&
      !/^(DATABASE_URL|TEMPORAL_.*|BERTH_SIGNING_KEY.*|BERTH_WEBHOOK_KEYS|NODE_OPTIONS|VITEST.*)$/.test(entry[0]),
  );
  return { ...Object.fromEntries(own), [siteMarker]: home.path };
}

/** Nearly all processes of an earlier run died with its supervisor: kills the remaining ones and waits for their end. */
async function endLeftovers(home: string): Promise<number> {
  const found = processesOfSite(home);
  await until('what an earlier run left to end', 15_000, () => {
    const still = processesOfSite(home);
    for (const pid of still) signal(pid, 'SIGKILL');
    return still.length === 0;
  });
  return found.length;
}
