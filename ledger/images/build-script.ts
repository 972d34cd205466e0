import type { ResolvedRecipe } from '../../model/image.ts';

/** Path of a recipe's file on the data disk, by its index. */
export const buildFilePath = (index: number): string => `.berth/files/${index}`;

const scriptPrelude = `
set -eu
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
say() { printf '\\n== %s\\n' "$*"; }
sources() { [ -s /etc/apt/sources.list ] || [ -n "$(ls /etc/apt/sources.list.d 2>/dev/null)" ]; }
take() { n=$1; list=; shift; while [ "$n" -gt 0 ]; do list="$list $1"; shift; n=$((n - 1)); done; }
`;

/** Removes what must differ between machines, and what no image needs. */
const cleanupScript = `
say cleaning
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/debconf/*-old
rm -rf "$root"/var/log/* "$root"/tmp/* "$root"/var/tmp/* "$root"/root/.bash_history "$root"/var/lib/systemd/random-seed
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id
: >"$root"/etc/machine-id
: >"$root"/etc/resolv.conf
printf '127.0.0.1 localhost\\n::1 localhost\\n' >"$root"/etc/hosts
`;

/**
 * Arguments: 1 to grow the root file system, number of packages, packages, number of files, mode and path of each,
 * commands. No text of a recipe becomes text of this script. policy-rc.d forbids the start of services, so an installation
 * leaves no process that writes.
 */
const customizeScript = `${scriptPrelude}
root=
if [ "$1" = 1 ]; then say 'growing the root file system'; resize2fs /dev/vda; fi
packages=$2; shift 2
if [ "$packages" -gt 0 ]; then
  say "installing $packages packages"
  printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
  apt-get -q update
  take "$packages" "$@"
  apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 install $list
  apt-get -q clean
  rm -f /usr/sbin/policy-rc.d
  shift "$packages"
fi
files=$1 at=0; shift
while [ "$at" -lt "$files" ]; do
  say "file $2"
  install -D -m "$1" "/home/task/.berth/files/$at" "$2"
  shift 2; at=$((at + 1))
done
at=0
for command; do
  at=$((at + 1))
  say "command $at of $#"
  ( cd /root; exec /bin/sh -ec "$command" )
done
${cleanupScript}
say 'giving back what is free'
fstrim / || echo 'the disk does not take it back'
sync
`;

/**
 * Arguments: suite, number of packages, packages, number of files, mode and path of each, commands. The data disk's file
 * system becomes the root of the image, which mmdebstrap fills in this VM. Kernel and modules are those of this VM.
 */
const suiteScript = `${scriptPrelude}
suite=$1 packages=$2; shift 2
root=/home/task
say 'installing mmdebstrap'
apt-get -q update
apt-get -q -y --no-install-recommends install mmdebstrap debian-archive-keyring
take "$packages" "$@"
shift "$packages"
if [ -e "$root/.berth" ]; then mv "$root/.berth" /run/berth-files; fi
rm -rf "$root/lost+found"
say "installing $suite"
# The archive itself, and not that of its updates.
mirror=$(awk '$1 == "deb" { for (i = 2; i < NF; i++) if ($i ~ /^https?:/ && $(i + 1) !~ /-/) { print $i; exit } } $1 == "URIs:" { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true)
include=systemd-sysv,qemu-guest-agent,usr-is-merged,kmod,iproute2,procps
for one in $list; do include="$include,$one"; done
mmdebstrap --variant=minbase --mode=root --include="$include" --dpkgopt='path-exclude=/usr/share/doc/*' --skip=output/dev "$suite" "$root" \${mirror:-}
say 'adding the kernel and the agent'
mkdir -p "$root/usr/lib/modules" "$root/usr/local/sbin" "$root/home/task"
cp -a "/usr/lib/modules/$(uname -r)" "$root/usr/lib/modules/"
cp -a /usr/local/sbin/berth-* "$root/usr/local/sbin/"
cp -a /etc/systemd/system/. "$root/etc/systemd/system/"
[ ! -d /etc/systemd/system-generators ] || cp -a /etc/systemd/system-generators "$root/etc/systemd/"
files=$1 at=0; shift
while [ "$at" -lt "$files" ]; do
  say "file $2"
  install -D -m "$1" "/run/berth-files/files/$at" "$root$2"
  shift 2; at=$((at + 1))
done
at=0
for command; do
  at=$((at + 1))
  say "command $at of $#"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  chroot "$root" /bin/sh -ec "$command"
done
${cleanupScript}
sync
`;

const packageArguments = ({ packages }: ResolvedRecipe): string[] => [String(packages.length), ...packages];

const fileArguments = ({ files }: ResolvedRecipe): string[] => [
  String(files.length),
  ...files.flatMap(({ mode, path }) => [mode, path]),
];

/** argv of the one command by which a build VM makes the image of a recipe. @param baseMiB size of the base's disk */
export function buildCommand(recipe: ResolvedRecipe, baseMiB: number): string[] {
  const shell = (script: string, words: string[]) => ['/bin/sh', '-c', script, 'berth-build', ...words];
  if (recipe.base.kind === 'suite')
    return shell(suiteScript, [recipe.base.suite, ...packageArguments(recipe), ...fileArguments(recipe), ...recipe.commands]);
  const grow = recipe.sizeMiB > baseMiB ? '1' : '0';
  return shell(customizeScript, [grow, ...packageArguments(recipe), ...fileArguments(recipe), ...recipe.commands]);
}
