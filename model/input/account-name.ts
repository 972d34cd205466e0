/**
 * Users and groups of Debian's base system and of the packages that its images usually have: `useradd` refuses a user whose
 * group is there already, and a system account has no home in which a key could be put. From base-passwd's masters and the
 * `sysusers.d` and maintainer scripts of systemd, openssh, dbus, cron, chrony, exim and avahi.
 */
const debianAccounts = new Set(
  `daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup
  adm tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow utmp video sasl plugdev
  staff users wheel input sgx kvm render crontab netdev messagebus dbus sshd ssh polkitd ntp chrony uuidd tss tcpdump
  avahi rtkit lxd docker libvirt postfix postdrop mysql postgres redis bluetooth scanner colord pulse saned`.split(/\s+/),
);

/** Debian reserves these for packages (policy manual, 9.2.1): names with a leading `_`, and systemd's and Debian's own. */
const reservedPrefix = /^(_|systemd-|debian-)/;

/** Why no user of this name can be made in a guest; null: it can. `root` is there already, and takes a key. */
export function reservedAccount(name: string): string | null {
  if (debianAccounts.has(name)) return 'is a user or a group that Debian has already';
  if (reservedPrefix.test(name)) return 'begins as the names do that Debian keeps for its packages';
  return /^[0-9]+$/.test(name) ? 'is a number, which programs take for a user id' : null;
}
