/** Folders of every guest: a file can be put into one, and never in its place. Those of the file system hierarchy. */
const folders = new Set(
  `/bin /boot /dev /etc /home /lib /lib32 /lib64 /libx32 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /var
  /etc/apt /etc/cron.d /etc/default /etc/init.d /etc/profile.d /etc/ssh /etc/ssl /etc/sudoers.d /etc/sysctl.d /etc/systemd
  /etc/systemd/system /home/task /usr/bin /usr/games /usr/include /usr/lib /usr/libexec /usr/local /usr/local/bin
  /usr/local/etc /usr/local/lib /usr/local/sbin /usr/local/share /usr/sbin /usr/share /usr/src /var/backups /var/cache
  /var/lib /var/local /var/lock /var/log /var/mail /var/opt /var/run /var/spool /var/tmp /var/www`.split(/\s+/),
);

/** The kernel's own file systems, and what Berth itself keeps in a guest. */
const closedTrees: readonly [string, string][] = [
  ['/proc', "is the kernel's"],
  ['/sys', "is the kernel's"],
  ['/dev', "is the kernel's"],
  ['/run/berth', "is Berth's own"],
  ['/home/task/.berth', "is Berth's own"],
  ['/var/lib/berth', "is Berth's own"],
];

/** Why no file can be put at an absolute path of a guest; null: it can. */
export function unusableGuestPath(path: string): string | null {
  if (folders.has(path)) return 'is a folder';
  const tree = closedTrees.find(([folder]) => path === folder || path.startsWith(`${folder}/`));
  return tree === undefined ? null : `is below ${tree[0]}, which ${tree[1]}`;
}

/** The index of a path that is a folder of another one, which can't both be files; null: there is none. */
export function folderAmongFiles(paths: readonly string[]): number | null {
  const parents = new Set<string>();
  for (const path of paths) {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      const parent = path.slice(0, at);
      if (parents.has(parent)) break;
      parents.add(parent);
    }
  }
  const index = paths.findIndex((path) => parents.has(path));
  return index === -1 ? null : index;
}
