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
  return `if ! id -u ${word} >/dev/null 2>&1; then
if getent group ${word} >/dev/null 2>&1; then refuse "the image has a group "${word}" and no user of that name; choose another name"; fi
said=$(useradd -m -s /bin/bash ${word} 2>&1) || refuse "the user "${word}" could not be made: $said"
fi
home=$(getent passwd ${word} | cut -d: -f6)
mkdir -p "$home/.ssh" && chmod 700 "$home/.ssh"
printf '%s\\n' ${quoteForSh(sshKey)} >"$home/.ssh/authorized_keys" && chmod 600 "$home/.ssh/authorized_keys"
chown -R ${word}: "$home/.ssh"`;
}

/** Files come on the data disk, and are copied to their paths before the first boot's commands. */
function installFileScript({ from, path, mode }: GuestSetup['files'][number]): string {
  const target = quoteForSh(path);
  return `[ ! -d ${target} ] || refuse "the path "${target}" is a folder of the image"
said=$(mkdir -p ${quoteForSh(path.slice(0, path.lastIndexOf('/')) || '/')} 2>&1 && cp ${quoteForSh(from)} ${target} 2>&1 && chmod ${mode} ${target} 2>&1) || refuse "the file "${target}" could not be written: $said"`;
}

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

/** Exit code of the script where its caller asked for what this image can't do. The reason is the last line of its errors. */
export const refusedExitCode = 3;
/** Less than the agent's call may take, so that it is the guest that says why. */
const firstBootLimitS = 420;

export const refuseFunction = `refuse() { printf 'berth: %s\\n' "$1" >&2; exit ${refusedExitCode}; }`;

/**
 * Files and commands of the first boot, once, also when this script is repeated. The commands' outputs go to a file: the
 * agent's call lasts as long as a process has its output open, and they may leave processes in the background. A reboot in
 * the middle of them is refused when the script comes again: what was left undone can't be known.
 * @param folder of the state, which outlasts a reboot
 */
export function firstBootScript(setup: Pick<GuestSetup, 'files' | 'firstBoot'>, folder = stateFolder): string {
  return `if [ ! -e ${folder}/first-boot ]; then
read -r boot </proc/sys/kernel/random/boot_id
if [ -s ${folder}/first-boot-began ]; then
read -r began <${folder}/first-boot-began
[ "$began" = "$boot" ] || refuse "the machine was rebooted before the first-boot commands had ended; reboot it by POST /v1/vms/{id}/reboot afterwards"
fi
${setup.files.map(installFileScript).join('\n')}
${fileScript(`${folder}/commands`, '700', `${setup.firstBoot.join('\n')}\n`)}
echo "$boot" >${folder}/first-boot-began; sync
limit=; if command -v timeout >/dev/null; then limit='timeout -k 5 ${firstBootLimitS}'; fi
code=0
( exec 9>&-; cd /; exec $limit /bin/sh -e ${folder}/commands ) </dev/null >${folder}/first-boot.log 2>&1 || code=$?
if [ -n "$limit" ] && [ $code = 124 ]; then refuse "the first-boot commands had not ended after ${firstBootLimitS} s"; fi
[ $code = 0 ] || refuse "the first-boot commands ended with exit code $code: $(tail -n 5 ${folder}/first-boot.log | tail -c 400)"
: >${folder}/first-boot
fi`;
}

/**
 * The script for /bin/sh -s that sets up a guest as requested: host key, user, files, swap, a root file system as large as
 * its disk, sshd where there is one; then the first boot's commands, once. Repeatable: a lock serializes runs.
 */
export function setupScript(setup: GuestSetup, identity: string): string {
  return `set -e
${refuseFunction}
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
${startSshd}${firstBootScript(setup)}
rm -rf ${stagedFiles}
sync
`;
}
