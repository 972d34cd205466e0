import { stagedFiles } from '../../model/vm-request.ts';
import type { GuestSetup } from '../ports/guest.ts';

/** The guest's folder for what later boots need, and for the mark that the first boot is over. */
const stateFolder = '/var/lib/berth';

/** Quotes any text as one word for sh. */
const quoteForSh = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

function fileScript(path: string, mode: string, content: string): string {
  const target = quoteForSh(path);
  const encoded = Buffer.from(content).toString('base64');
  return `mkdir -p ${quoteForSh(path.slice(0, path.lastIndexOf('/')) || '/')}
echo ${encoded} | base64 -d >${target}.partial && chmod ${mode} ${target}.partial && mv ${target}.partial ${target}`;
}

function userScript({ name, sshKey }: { name: string; sshKey: string }): string {
  const word = quoteForSh(name);
  return `id -u ${word} >/dev/null 2>&1 || useradd -m -s /bin/bash ${word}
home=$(getent passwd ${word} | cut -d: -f6)
mkdir -p "$home/.ssh" && chmod 700 "$home/.ssh"
printf '%s\\n' ${quoteForSh(sshKey)} >"$home/.ssh/authorized_keys" && chmod 600 "$home/.ssh/authorized_keys"
chown -R ${word}: "$home/.ssh"`;
}

/** Files come on the data disk, and are copied to their paths before the first boot's commands. */
const installFileScript = ({ from, path, mode }: GuestSetup['files'][number]): string =>
  `mkdir -p ${quoteForSh(path.slice(0, path.lastIndexOf('/')) || '/')}
cp ${quoteForSh(from)} ${quoteForSh(path)} && chmod ${mode} ${quoteForSh(path)}`;

function swapScript(swapMiB: number): string {
  const path = `${stateFolder}/swap`;
  return `[ -e ${path} ] || { fallocate -l ${swapMiB}M ${path}.partial && chmod 600 ${path}.partial && mkswap ${path}.partial >/dev/null && mv ${path}.partial ${path}; }
grep -q ${path} /proc/swaps || swapon ${path}`;
}

/** Removes /run/nologin: without systemd's user sessions nothing else does, and only root could log in. */
const startSshd = `if [ -x /usr/sbin/sshd ]; then
rm -f /run/nologin; mkdir -p /run/sshd
[ -s /run/sshd.pid ] && kill -0 "$(cat /run/sshd.pid)" 2>/dev/null || /usr/sbin/sshd 9>&-
fi
`;

/** What every boot repeats without Berth: a guest may reboot itself. */
const bootScript = `#!/bin/sh
if [ -x /usr/local/sbin/berth-identity ]; then /usr/local/sbin/berth-identity <${stateFolder}/identity; fi
if [ -e ${stateFolder}/swap ]; then grep -q ${stateFolder}/swap /proc/swaps || swapon ${stateFolder}/swap; fi
${startSshd}`;

const bootUnit = `[Unit]
Description=Berth: address, swap and sshd of this VM
After=local-fs.target berth-agent.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh ${stateFolder}/boot
[Install]
WantedBy=multi-user.target
`;

/**
 * The script for /bin/sh -s that sets up a guest as requested: host key, user, files, swap, a root file system as large as
 * its disk, sshd where there is one; then the first boot's commands, once. Repeatable: a lock serializes runs.
 */
export function setupScript(setup: GuestSetup, identity: string): string {
  const commands = setup.firstBoot.join('\n');
  return `set -e
mkdir -p ${stateFolder} && chmod 700 ${stateFolder}
exec 9>${stateFolder}/lock; if command -v flock >/dev/null; then flock 9; fi
# A whole disk with a file system on it, grown while it is mounted.
if [ ! -e /dev/vda1 ] && [ "$(stat -f -c %T /)" = ext2/ext3 ]; then resize2fs /dev/vda >/dev/null 2>&1; fi
${setup.user === null ? '' : userScript(setup.user)}
${fileScript('/etc/ssh/ssh_host_ed25519_key', '600', setup.hostKey.private)}
${fileScript('/etc/ssh/ssh_host_ed25519_key.pub', '644', setup.hostKey.public)}
if [ -s /run/sshd.pid ]; then kill -HUP "$(cat /run/sshd.pid)" || :; fi
${setup.swapMiB === 0 ? '' : swapScript(setup.swapMiB)}
${fileScript(`${stateFolder}/identity`, '600', identity)}
${fileScript(`${stateFolder}/boot`, '700', bootScript)}
if [ -d /etc/systemd/system ]; then
${fileScript('/etc/systemd/system/berth-boot.service', '644', bootUnit)}
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf ../berth-boot.service /etc/systemd/system/multi-user.target.wants/berth-boot.service
fi
${startSshd}if [ ! -e ${stateFolder}/first-boot ]; then
${setup.files.map(installFileScript).join('\n')}
${fileScript(`${stateFolder}/commands`, '700', `${commands}\n`)}
( exec 9>&-; cd /; sh -e ${stateFolder}/commands </dev/null )
: >${stateFolder}/first-boot
fi
rm -rf ${stagedFiles}
sync
`;
}
