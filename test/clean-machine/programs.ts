import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Every program that Berth, its tests and its benchmarks start on the machine (not in guests), by Debian package:
 * argv[0] of spawned processes, and the programs that scripts call. Packages of `installed` are rows of infra/setup; those
 * of `always` are in each Debian, however small.
 */
export const installed: Record<string, readonly string[]> = {
  'qemu-system-x86': ['qemu-system-x86_64'],
  'qemu-utils': ['qemu-img'],
  'libvirt-daemon': ['libvirtd'],
  'libvirt-daemon-log': ['virtlogd'],
  'libvirt-clients': ['virsh'],
  'nfs-ganesha': ['ganesha.nfsd'],
  rpcbind: ['rpcbind'],
  'libnfs-utils': ['nfs-cp'],
  iproute2: ['ip', 'bridge', 'ss', 'tc'],
  'iputils-ping': ['ping'],
  'iputils-arping': ['arping'],
  conntrack: ['conntrack'],
  iptables: ['iptables', 'iptables-restore', 'iptables-save'],
  ebtables: ['ebtables'],
  tini: ['tini'],
  e2fsprogs: ['mkfs.ext4', 'e2fsck', 'debugfs'],
  xorriso: ['xorrisofs', 'xorriso'],
  'util-linux': ['nsenter', 'setpriv', 'unshare', 'prlimit', 'blkid', 'flock', 'setsid', 'pivot_root'],
  procps: ['sysctl', 'ps', 'kill'],
  curl: ['curl'],
  'openssh-client': ['ssh-keygen', 'ssh', 'sftp'],
  mmdebstrap: ['mmdebstrap'],
  gcc: ['gcc'],
  cpio: ['cpio'],
  'xz-utils': ['xz'],
  zstd: ['zstd'],
  lz4: ['lz4'],
  rsync: ['rsync'],
  socat: ['socat'],
  git: ['git'],
  tmux: ['tmux'],
};

export const always: Record<string, readonly string[]> = {
  bash: ['bash'],
  dash: ['sh'],
  coreutils: [
    'cat',
    'chmod',
    'cp',
    'env',
    'ls',
    'mkdir',
    'od',
    'rm',
    'sha256sum',
    'stdbuf',
    'tail',
    'touch',
    'truncate',
    'du',
    'mkfifo',
    'sleep',
    'true',
    'yes',
    'echo',
    'printf',
    'install',
  ],
  hostname: ['hostname'],
  mount: ['mount', 'umount'],
  'sysvinit-utils': ['pidof'],
  'util-linux': ['renice'],
  mawk: ['awk'],
  sed: ['sed'],
  tar: ['tar'],
  gzip: ['gzip'],
  apt: ['apt-get', 'apt-cache'],
  dpkg: ['dpkg', 'dpkg-deb'],
  'libc-bin': ['ldd'],
};

/** On a real site's machines: the local site has no systemd, and setup installs none. */
export const elsewhere = ['systemctl'];

/** From package-lock.json and infra/setup's own parts: node, npm and Temporal's server. */
export const fetched = ['node', 'npm', 'temporal'];

const folders = ['activities', 'api', 'bench', 'cli', 'drivers', 'infra', 'model', 'scheduler', 'test', 'workers'];

/** argv[0] where it is written at the call: `run(['qemu-img', …`, `nsenterArgv(pid, ['virsh', …`, `spawn('setpriv', …`, `argv: ['rpcbind', …`. */
const calls = [
  /\b(?:run|nsenterArgv|bounded|onHost)\((?:[\w.!(){} ]+, ?)*(?:'[\w-]+', ?)?\[\s*'([\w./-]+)'/g,
  /\b(?:spawn|spawnSync|execFile|execFileSync)\(\s*'([\w./-]+)'/g,
  /\bargv(?:: | = )(?:nsenterArgv\([^[]*)?\[\s*'([a-z][\w./-]+)',/g,
];

const program = /^[a-z][a-z0-9._-]*$/;

/** The programs that the source names as argv[0], with the file that does. */
export function spawnedPrograms(repository: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const folder of folders)
    for (const name of readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.ts')) continue;
      const text = readFileSync(join(repository, folder, name), 'utf8');
      for (const call of calls)
        for (const match of text.matchAll(call)) if (program.test(match[1]!)) found.set(match[1]!, join(folder, name));
    }
  return found;
}

/** Debian packages that infra/setup installs, from its rows `"what package"`. */
export function packagesOfSetup(repository: string): Set<string> {
  const text = readFileSync(join(repository, 'infra/setup'), 'utf8');
  const lists = [...text.matchAll(/^(?:hypervisor|system)=\(\n([\s\S]*?)^\)$/gm)].map((match) => match[1]!);
  return new Set(lists.flatMap((list) => [...list.matchAll(/^ {2}"\S+ (\S+)"$/gm)].map((match) => match[1]!)));
}
