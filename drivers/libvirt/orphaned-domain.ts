import { rename, rm, stat } from 'node:fs/promises';
import { BerthError } from '../../model/errors.ts';
import { exists, isErrno, readText } from '../host/files.ts';
import { qemuPidFile, readPid, statusFolder, watchPid } from './qemu-process.ts';

const statusFile = (name: string): string => `${statusFolder}/${name}.xml`;
/** The status of one that is being ended, where no libvirtd reads it: whoever is cut short is seen to have been. */
const orphanFile = (name: string): string => `${statusFolder}/${name}.lost`;
/** libvirtd writes it when it begins. */
const daemonPidFile = '/run/libvirtd.pid';
/** A guest's memory is given back first. */
const endDeadlineMs = 30_000;

/**
 * Whether libvirtd has a domain whose QEMU it doesn't know. It writes a domain's status down before it has started QEMU;
 * killed before it writes the pid too, it is followed by one that connects to no domain without a pid
 * (qemuProcessReconnectHelper), yet keeps the job that is written there: nobody ends that job, and whoever asks to end
 * the domain waits for it in vain. While this libvirtd is starting a domain itself, its status is younger.
 */
export async function isOrphaned(name: string): Promise<boolean> {
  if (await exists(orphanFile(name))) return true;
  const status = await readText(statusFile(name));
  if (status === null || !/<domstatus\b[^>]*\bpid='0'/.test(status)) return false;
  const [written, began] = await Promise.all([modifiedMs(statusFile(name)), modifiedMs(daemonPidFile)]);
  return written !== null && began !== null && written < began;
}

/**
 * Ends a lost domain as libvirtd would: QEMU first, which may have come to life; then what is written of it; then libvirtd,
 * which forgets it only so. Whatever starts libvirtd starts it again, and running domains don't notice. Does it again
 * where it was cut short before. Throws host-busy while QEMU doesn't end.
 */
export async function removeOrphaned(name: string): Promise<void> {
  const pid = await readPid(qemuPidFile(name));
  if (pid !== null && (await argvOf(pid)).some((word) => word.startsWith(`guest=${name},`))) {
    const qemu = watchPid(pid);
    killProcess(pid);
    await qemu?.waitForEnd(AbortSignal.timeout(endDeadlineMs)).catch((error: unknown) => {
      throw new BerthError('host-busy', `QEMU of ${name}, process ${pid}, got SIGKILL and hasn't ended in ${endDeadlineMs} ms`, {
        cause: error,
      });
    });
  }
  if (!(await exists(orphanFile(name)))) await rename(statusFile(name), orphanFile(name));
  await rm(qemuPidFile(name), { force: true });
  const daemon = await readPid(daemonPidFile);
  if (daemon !== null && (await argvOf(daemon))[0]?.endsWith('libvirtd') === true) killProcess(daemon);
  await rm(orphanFile(name));
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

async function argvOf(pid: number): Promise<string[]> {
  try {
    return (await readText(`/proc/${pid}/cmdline`))?.split('\0') ?? [];
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return [];
    throw error;
  }
}

async function modifiedMs(path: string): Promise<number | null> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    throw error;
  }
}
