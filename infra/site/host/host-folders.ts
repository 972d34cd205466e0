import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Home } from '../home.ts';
import { hostAddress, type SiteNetwork } from '../network.ts';
import { ganeshaConf, type HostConfig, hostRules, libvirtdConf, qemuConf, virtlogdConf } from './host-config.ts';

export interface HostLayout {
  home: Home;
  network: SiteNetwork;
  /** 1 for the first host. */
  index: number;
  /** How many hosts the site has. */
  count: number;
  /** libvirt's cache of QEMU's capabilities; shared, because probing takes a second. */
  libvirtCache: string;
  /** What its worker shows to the API; absent: it has no worker. */
  key?: string;
}

/** Where a host has its key, by which its worker fetches from the API: in its own /run, which no other host sees. */
export const hostKeyFile = '/run/berth/host.key';

export const hostName = (index: number): string => `host${index}`;
export const pidFile = (home: Home, id: string): string => join(home.hosts, `${id}.pid`);
const configFolder = (place: HostLayout): string => join(place.home.run, hostName(place.index));

/** Writes the host's configuration. @returns the argv of the host's first process */
export function prepareHost(place: HostLayout): string[] {
  const { home, index, libvirtCache } = place;
  const id = hostName(index);
  const config = configFolder(place);
  const [disk, logs] = [join(home.hosts, id), join(home.logs, id)];
  removeConfig(place);
  for (const folder of [config, disk, logs, join(logs, 'libvirt'), libvirtCache]) mkdirSync(folder, { recursive: true });
  for (const [path, text] of Object.entries(configFiles(place))) {
    mkdirSync(join(config, path, '..'), { recursive: true });
    writeFileSync(join(config, path), text);
  }
  writeFileSync(join(config, 'host.key'), `${place.key ?? ''}\n`, { mode: 0o600 });
  // unshare gets PDEATHSIG from supervise() and passes it to tini, PID 1, so that the whole host dies with the
  // supervisor.
  const namespaces = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child=SIGKILL', '--mount-proc'];
  const init = join(import.meta.dirname, 'host-init.sh');
  return ['unshare', ...namespaces, 'tini', '--', init, id, home.path, config, disk, logs, libvirtCache];
}

export function removeConfig(place: HostLayout): void {
  rmSync(configFolder(place), { recursive: true, force: true });
}

/** Configuration texts, by their paths in the folder that host-init.sh receives. */
function configFiles({ home, network, index, count }: HostLayout): Record<string, string> {
  const all = Array.from({ length: count }, (_, i) => i + 1);
  const host: HostConfig = {
    address: hostAddress(network, index),
    peers: all.filter((other) => other !== index).map((other) => hostAddress(network, other)),
    uuid: hostUuid(`${home.path}/${hostName(index)}`),
    confine: false,
  };
  const names = all.map((other) => `${hostAddress(network, other)} ${hostName(other)}`);
  return {
    'libvirt/libvirtd.conf': libvirtdConf(host),
    'libvirt/qemu.conf': qemuConf(host),
    'libvirt/virtlogd.conf': virtlogdConf(),
    'ganesha/ganesha.conf': ganeshaConf(host),
    firewall: hostRules(host, 'eth0', []),
    hosts: `${['127.0.0.1 localhost', ...names].join('\n')}\n`,
  };
}

/** A version 4 UUID derived from a digest, so that a host keeps its UUID between runs. */
function hostUuid(seed: string): string {
  const hex = createHash('sha256').update(seed).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
