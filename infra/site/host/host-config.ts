/**
 * The configuration files that make a machine a Berth host, as texts: the local site's hosts and real ones
 * (infra/systemd) use the same.
 */
export interface HostConfig {
  /** Address on the hosts' network; the services listen on no other address. */
  address: string;
  /** Addresses of the other hosts of the site. */
  peers: readonly string[];
  /** Addresses of the edges, which join owners' segments and reach nothing else. */
  edges: readonly string[];
  /** How libvirt distinguishes hosts. null: the machine's own UUID, on a dedicated machine. */
  uuid: string | null;
  /**
   * Whether libvirtd may put guests into cgroups and mount namespaces of their own; false where libvirtd itself runs in a
   * namespace.
   */
  confine: boolean;
}

/** Ports that a host opens to the other hosts. */
export const hostPorts = {
  rpcbind: 111,
  nfs: 2049,
  mountd: 20_048,
  libvirt: 16_509,
  /** libvirt's range for incoming migrations, including copied disks. */
  migration: [49_152, 49_215],
  vxlan: 4789,
} as const;

/** After a lost peer, both ends of a migration clean up after interval × (count + 1): measured 10 to 12 s. */
const keepalive = ['keepalive_interval = 2', 'keepalive_count = 5'];

export function libvirtdConf(host: HostConfig): string {
  return [
    'listen_tls = 0',
    'listen_tcp = 1',
    // The firewall limits connections to the site's hosts, see hostRules.
    'auth_tcp = "none"',
    'auth_unix_rw = "none"',
    `listen_addr = "${host.address}"`,
    ...(host.uuid === null ? [] : [`host_uuid = "${host.uuid}"`]),
    ...keepalive,
    '',
  ].join('\n');
}

export function qemuConf(host: HostConfig): string {
  return [
    ...(host.confine ? [] : ['security_driver = "none"', 'cgroup_controllers = [ ]', 'namespaces = [ ]']),
    'user = "root"',
    'group = "root"',
    'dynamic_ownership = 0',
    'remember_owner = 0',
    'migration_address = "0.0.0.0"',
    `migration_host = "${host.address}"`,
    `migration_port_min = ${hostPorts.migration[0]}`,
    `migration_port_max = ${hostPorts.migration[1]}`,
    ...keepalive,
    '',
  ].join('\n');
}

/** A guest can write to its console without limit: virtlogd bounds the stored part. */
export function virtlogdConf(): string {
  return ['max_size = 2097152', 'max_backups = 1', ''].join('\n');
}

/**
 * NFS-Ganesha serves /var/lib/berth to the peers alone, from privileged ports alone. Attr_Expiration_Time = 0, because
 * QEMU writes to the files without Ganesha's knowledge, and Ganesha would continue to report old sizes to the peers.
 * Dir_Chunk = 0, because the host makes and removes folders without Ganesha's knowledge: a VM whose disks returned home a
 * second time had none for its peers.
 */
export function ganeshaConf(host: HostConfig): string {
  const client =
    host.peers.length === 0
      ? ''
      : `\n  CLIENT { Clients = ${host.peers.join(', ')}; Access_Type = RW; Squash = No_Root_Squash; }`;
  return `NFS_CORE_PARAM {
  Protocols = 3;
  NFS_Port = ${hostPorts.nfs};
  MNT_Port = ${hostPorts.mountd};
  Enable_NLM = false;
  Enable_RQUOTA = false;
  Enable_UDP = false;
  Bind_addr = ${host.address};
}
NFSv4 { Grace_Period = 1; Lease_Lifetime = 10; }
MDCACHE { Dir_Chunk = 0; }
EXPORT_DEFAULTS { Access_Type = None; Attr_Expiration_Time = 0; }
EXPORT {
  Export_Id = 1;
  Path = /var/lib/berth;
  Pseudo = /berth;
  Access_Type = None;
  Squash = No_Root_Squash;
  SecType = sys;
  Protocols = 3;
  PrivilegedPort = true;
  Attr_Expiration_Time = 0;
  FSAL { Name = VFS; }${client}
}
`;
}

/**
 * iptables-restore's input for a host: its services are open to the site's hosts alone; everything else that is not an
 * answer is dropped, including packets from a guest's bridge. drivers/network/host-network.ts defines what guests may
 * reach.
 * @param uplink the interface on the hosts' network
 * @param open TCP ports that everyone except guests may reach, such as ssh's on a dedicated machine
 */
export function hostRules(host: HostConfig, uplink: string, open: readonly number[]): string {
  const tcp = [hostPorts.rpcbind, hostPorts.nfs, hostPorts.mountd, hostPorts.libvirt, hostPorts.migration.join(':')].join(',');
  const from = host.peers.flatMap((peer) => [
    `-A BERTH-HOST -i ${uplink} -s ${peer} -p tcp -m multiport --dports ${tcp} -j ACCEPT`,
    `-A BERTH-HOST -i ${uplink} -s ${peer} -p udp -m multiport --dports ${hostPorts.rpcbind},${hostPorts.vxlan} -j ACCEPT`,
    `-A BERTH-HOST -i ${uplink} -s ${peer} -p icmp -j ACCEPT`,
  ]);
  const fromEdges = host.edges.map(
    (edge) => `-A BERTH-HOST -i ${uplink} -s ${edge} -p udp -m multiport --dports ${hostPorts.vxlan} -j ACCEPT`,
  );
  return [
    '*filter',
    // Declaring a chain empties it: applying the rules again replaces them atomically.
    ':BERTH-HOST - [0:0]',
    '-A BERTH-HOST -i lo -j ACCEPT',
    '-A BERTH-HOST -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
    ...from,
    ...fromEdges,
    ...open.map((port) => `-A BERTH-HOST -p tcp --dport ${port} ! -i bg+ -j ACCEPT`),
    '-A BERTH-HOST -j DROP',
    'COMMIT',
    '',
  ].join('\n');
}
