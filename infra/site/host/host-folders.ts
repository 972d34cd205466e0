import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Home } from '../home.ts';
import { edgeAddress, hostAddress, type SiteNetwork, vethName } from '../network.ts';
import { guestGroupFolders, makeGuestGroup } from './guest-group.ts';
import { ganeshaConf, type HostConfig, hostRules, libvirtdConf, qemuConf, virtlogdConf } from './host-config.ts';

export interface HostLayout {
  /** An edge is made like a host, without what runs VMs. */
  role: 'host' | 'edge';
  home: Home;
  network: SiteNetwork;
  /** 1 for the first of its role. */
  index: number;
  /** How many hosts the site has, and how many edges. */
  count: number;
  edges: number;
  /** libvirt's cache of QEMU's capabilities; shared, because probing takes a second. */
  libvirtCache: string;
  /** How many processors its guests may keep busy, 0.5 for half of one; null: all. */
  guestProcessors?: number | null;
  /** What its worker shows to the API; absent: it has no worker. */
  key?: string;
}

/** Where a host has its key, by which its worker fetches from the API: in its own /run, which no other host sees. */
export const hostKeyFile = '/run/berth/host.key';

/** The same of an edge. */
export const edgeKeyFile = '/run/berth/edge.key';

export const hostName = (index: number): string => `host${index}`;
export const edgeName = (index: number): string => `edge${index}`;
export const machineName = ({ role, index }: HostLayout): string => `${role}${index}`;
export const machineAddress = ({ role, network, index }: HostLayout): string =>
  role === 'host' ? hostAddress(network, index) : edgeAddress(network, index);
/** The machine's end of its cable. */
export const cableName = ({ role, home, index }: HostLayout): string => vethName(home.tag, role === 'host' ? index : 200 + index);
export const pidFile = (home: Home, id: string): string => join(home.hosts, `${id}.pid`);
/** Of the control group of its guests. */
export const groupName = (place: HostLayout): string => `berth-${place.home.tag}-${machineName(place)}`;
const configFolder = (place: HostLayout): string => join(place.home.run, machineName(place));

/** Writes the host's configuration. @returns the argv of the host's first process */
export function prepareHost(place: HostLayout): string[] {
  const { home, role, libvirtCache } = place;
  const id = machineName(place);
  const config = configFolder(place);
  const [disk, logs] = [join(home.hosts, id), join(home.logs, id)];
  removeConfig(place);
  for (const folder of [config, disk, logs, join(logs, 'libvirt'), libvirtCache]) mkdirSync(folder, { recursive: true });
  for (const [path, text] of Object.entries(configFiles(place))) {
    mkdirSync(join(config, path, '..'), { recursive: true });
    writeFileSync(join(config, path), text);
  }
  writeFileSync(join(config, `${role}.key`), `${place.key ?? ''}\n`, { mode: 0o600 });
  // unshare gets PDEATHSIG from supervise() and passes it to tini, PID 1, so that the whole host dies with the
  // supervisor.
  const namespaces = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child=SIGKILL', '--mount-proc'];
  const groups = place.guestProcessors == null ? [] : guestGroupFolders(groupName(place));
  if (place.guestProcessors != null) makeGuestGroup(groupName(place), place.guestProcessors);
  const init = join(import.meta.dirname, `${role}-init.sh`);
  return ['unshare', ...namespaces, 'tini', '--', init, id, home.path, config, disk, logs, libvirtCache, ...groups];
}

export function removeConfig(place: HostLayout): void {
  rmSync(configFolder(place), { recursive: true, force: true });
}

/** Configuration texts, by their paths in the folder that host-init.sh receives. */
function configFiles({ role, home, network, index, count, edges }: HostLayout): Record<string, string> {
  // Its worker makes its rules.
  if (role === 'edge') return {};
  const all = Array.from({ length: count }, (_, i) => i + 1);
  const host: HostConfig = {
    address: hostAddress(network, index),
    peers: all.filter((other) => other !== index).map((other) => hostAddress(network, other)),
    edges: Array.from({ length: edges }, (_, i) => edgeAddress(network, i + 1)),
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
