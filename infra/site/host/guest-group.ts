import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isErrno } from '../../../drivers/host/files.ts';

/**
 * The control group of a host of the local site, whose guests may keep so many processors busy and no more: so that a host can be
 * overloaded, and its load is its own. Only QEMU's processes are in it (guest-group.sh).
 */

const root = '/sys/fs/cgroup';
const periodUs = 100_000;
const removalDeadlineMs = 5000;

/** Where it is: one folder with cgroup v2, and with v1 one of `cpu` and one of `cpuacct`. */
export function guestGroupFolders(name: string): string[] {
  if (existsSync(join(root, 'cgroup.controllers'))) return [join(root, name)];
  return [join(root, 'cpu', name), join(root, 'cpuacct', name)];
}

/** Where the host has them (host-init.sh). */
export const guestGroupInHost = (): string[] => guestGroupFolders('').map((_, n) => `/run/berth/guests/${n}`);

/** Makes the group, or takes the one that a killed run left. */
export function makeGuestGroup(name: string, processors: number): void {
  const folders = guestGroupFolders(name);
  for (const folder of folders) mkdirSync(folder, { recursive: true });
  const quota = String(Math.round(processors * periodUs));
  const [first] = folders as [string];
  if (folders.length === 1) {
    writeFileSync(join(root, 'cgroup.subtree_control'), '+cpu');
    writeFileSync(join(first, 'cpu.max'), `${quota} ${periodUs}`);
    return;
  }
  writeFileSync(join(first, 'cpu.cfs_period_us'), String(periodUs));
  writeFileSync(join(first, 'cpu.cfs_quota_us'), quota);
}

/** Its processes have ended, or are about to. */
export async function removeGuestGroup(name: string): Promise<void> {
  const untilMs = Date.now() + removalDeadlineMs;
  for (const folder of guestGroupFolders(name))
    for (;;)
      try {
        rmdirSync(folder);
        break;
      } catch (error) {
        if (isErrno(error, 'ENOENT')) break;
        if (!isErrno(error, 'EBUSY') || Date.now() > untilMs) throw error;
        await sleep(50);
      }
}
