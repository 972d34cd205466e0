import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../../drivers/host/run-process.ts';
import { isListening } from '../processes.ts';
import type { ChildSpec } from '../supervise.ts';
import { hostPorts } from './host-config.ts';

/** A process that a host keeps running. */
export interface Daemon extends Pick<ChildSpec, 'isReady' | 'stopMs' | 'watchdog'> {
  /** Its name on the host. */
  name: string;
  argv: readonly string[];
  env: Record<string, string>;
  /** The daemons that must serve before this one starts. */
  after: readonly string[];
  /** The daemon that must restart with this one. */
  restartsWith?: string;
}

/** argv that runs a program in all of a host's namespaces. */
export const nsenterArgv = (pid: number, argv: readonly string[]): [string, ...string[]] => [
  'nsenter',
  `--target=${pid}`,
  '--mount',
  '--net',
  '--uts',
  '--pid',
  '--wdns=/',
  ...argv,
];

/** libvirt and NFS, which systemd starts on a dedicated machine. The order puts each daemon after its dependencies. */
export function daemonsOf(address: string, env: Record<string, string>, hasGuestGroup: boolean): Daemon[] {
  const exists = (pid: number, path: string): boolean => existsSync(`/proc/${pid}/root${path}`);
  const ganesha = [
    '-f',
    '/etc/ganesha/ganesha.conf',
    '-L',
    '/var/log/ganesha-server.log',
    '-N',
    'NIV_EVENT',
    '-p',
    '/run/ganesha/pid',
  ];
  const group = { name: 'guestGroup', argv: [join(import.meta.dirname, 'guest-group.sh')], env, after: [], isReady: () => true };
  return [
    ...(hasGuestGroup ? [group] : []),
    {
      name: 'rpcbind',
      argv: ['rpcbind', '-f', '-w', '-h', address],
      env,
      after: [],
      isReady: (pid) => exists(pid, '/run/rpcbind.sock'),
      // Registrations are lost when rpcbind dies, and QEMU asks rpcbind for the NFS server's port.
      restartsWith: 'ganesha',
    },
    {
      name: 'ganesha',
      argv: ['ganesha.nfsd', '-F', ...ganesha],
      env,
      after: ['rpcbind'],
      isReady: async (pid) => (await isListening(pid, hostPorts.nfs)) && isListening(pid, hostPorts.mountd),
    },
    {
      name: 'virtlogd',
      argv: ['virtlogd', '-f', '/etc/libvirt/virtlogd.conf'],
      env,
      after: [],
      isReady: (pid) => exists(pid, '/run/libvirt/virtlogd-sock'),
    },
    {
      name: 'libvirtd',
      argv: ['libvirtd', '--listen', '-f', '/etc/libvirt/libvirtd.conf'],
      env,
      after: ['virtlogd'],
      isReady: async (pid) => {
        if (!exists(pid, '/run/libvirt/libvirt-sock')) return false;
        await run(nsenterArgv(pid, ['virsh', '-c', 'qemu:///system', 'version']), { deadlineMs: 30_000 });
        return true;
      },
    },
  ];
}
