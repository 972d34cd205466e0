import { randomBytes, randomUUID } from 'node:crypto';
import { withPrefixLength } from '../network/addressing.ts';
import type { GuestIdentity } from '../ports/guest.ts';
import { taskFolder } from './guest-job.ts';
import { newHostKey } from './host-key.ts';

const dataDevice = '/dev/vdb';
const nic = 'eth0';
export const identityProgram = '/usr/local/sbin/berth-identity';

interface IdentityFile {
  path: string;
  mode: string;
  content: string;
}

export function identityFiles(
  { hostname, neighbours, firstBootKind }: Pick<GuestIdentity, 'hostname' | 'neighbours' | 'firstBootKind'>,
  nameservers: string[],
): IdentityFile[] {
  const hosts = ['127.0.0.1 localhost', '::1 localhost', ...neighbours.map(({ name, address }) => `${address} ${name}`)];
  if (!neighbours.some(({ name }) => name === hostname)) hosts.push(`127.0.1.1 ${hostname}`);
  return [
    { path: '/etc/hosts', mode: '0644', content: lines(hosts) },
    { path: '/etc/resolv.conf', mode: '0644', content: lines(nameservers.map((server) => `nameserver ${server}`)) },
    ...(firstBootKind === null ? [] : hostKeyFiles(hostname)),
  ];
}

function hostKeyFiles(hostname: string): IdentityFile[] {
  const key = newHostKey(`root@${hostname}`);
  const path = '/etc/ssh/ssh_host_ed25519_key';
  return [
    { path, mode: '0600', content: key.private },
    { path: `${path}.pub`, mode: '0644', content: key.public },
  ];
}

const lines = (list: string[]): string => list.map((line) => `${line}\n`).join('');
const epochSeconds = (timeMs: number): string => (timeMs / 1000).toFixed(3);

/** The records that berth-identity reads (infra/guest). The random seed and the clock first: what follows may use them. */
export function identityRecords(identity: GuestIdentity, files: IdentityFile[]): Buffer {
  const records = [
    `seed ${randomBytes(64).toString('hex')}`,
    `time ${epochSeconds(identity.timeMs)}`,
    `host ${identity.hostname}`,
    `mid ${identity.machineId}`,
    ...(identity.firstBootKind === 'warm' ? [`boot ${randomUUID()}`, `mac ${nic} ${identity.mac}`] : []),
    `addr ${nic} ${withPrefixLength(identity.address, identity.cidr)} ${identity.gateway}`,
    ...(identity.firstBootKind === null ? [] : ['mkdir /etc/ssh 0755']),
    ...files.map(
      ({ path, mode, content }) => `file ${path} ${mode} ${Buffer.byteLength(content)}\n${content.replace(/\n$/, '')}`,
    ),
  ];
  return Buffer.from(lines(records));
}

export const mountRecord = Buffer.from(`mount ${dataDevice} ${taskFolder}\n`);

/** For a template's guest: the files of an identity exist, and are empty. */
const emptyIdentityFiles = identityFiles({ firstBootKind: 'warm', hostname: 'template', neighbours: [] }, []).map(
  ({ path, mode }) => `file ${path} ${mode} 0`,
);

/**
 * Brings a guest to the state of a template: no unit is being started, what a VM needs first is in the page cache, and no
 * write is pending. Our program must be there, support network cards and wait for an identity: without it a guest from a
 * template would keep the template's identity.
 */
export const quiesceScript = `
set -e
if command -v systemctl >/dev/null; then systemctl is-system-running --wait >/dev/null || :; fi
/usr/bin/setsid true || /bin/setsid true
cat /usr/local/sbin/berth-job >/dev/null 2>&1 || :
mkdir -p ${taskFolder}
rm -f /etc/ssh/ssh_host_*
read -r mac </sys/class/net/${nic}/address
${identityProgram} wait >/dev/null <<records
mac ${nic} $mac
mkdir /etc/ssh 0755
${emptyIdentityFiles.join('\n')}
records
# A berth-identity without templates ignores the word wait, and makes no such file.
[ -e /run/berth/adopting ]
sync
`;

/** For images without our program. Arguments: hostname, machine id, address, gateway, seconds, MAC, then path, mode and content in turn. */
export const identityScript = `
set -e
hostname "$1" 2>/dev/null || echo "$1" >/proc/sys/kernel/hostname
echo "$1" >/etc/hostname; echo "$2" >/etc/machine-id
date -u -s "@$5" >/dev/null || :
nic=${nic}
for at in /sys/class/net/*; do if [ "$(cat "$at/address")" = "$6" ]; then nic=\${at##*/}; fi; done
ip link set "$nic" up
ip address replace "$3" dev "$nic"
ip route replace default via "$4" || :
shift 6
while [ $# -ge 3 ]; do mkdir -p "\${1%/*}"; rm -f "$1"; ( umask 077; printf '%s' "$3" >"$1" ); chmod "$2" "$1"; shift 3; done
mkdir -p ${taskFolder}
mountpoint -q ${taskFolder} || mount ${dataDevice} ${taskFolder}
`;

export function identityArguments(identity: GuestIdentity, files: IdentityFile[]): string[] {
  const { hostname, machineId, gateway, timeMs, mac } = identity;
  return [
    hostname,
    machineId,
    withPrefixLength(identity.address, identity.cidr),
    gateway,
    epochSeconds(timeMs),
    mac,
    ...files.flatMap(({ path, mode, content }) => [path, mode, content]),
  ];
}
