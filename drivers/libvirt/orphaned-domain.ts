import { rename, rm } from 'node:fs/promises';
import { BerthError } from '../../model/errors.ts';
import { exists, isErrno, readText, statOrNull } from '../host/files.ts';
import { killProcess } from '../host/run-process.ts';
import { qemuPidFile, readPid, statusFolder, watchPid } from './qemu-process.ts';

const statusFile = (name: string): string => `${statusFolder}/${name}.xml`;
/** The status file of a domain that is being removed, where libvirtd doesn't read it: an interrupted removal is found by it. */
const orphanFile = (name: string): string => `${statusFolder}/${name}.lost`;
/** libvirtd writes it when it starts. */
const daemonPidFile = '/run/libvirtd.pid';
/** The kernel frees the guest's memory before the process ends. */
const endDeadlineMs = 30_000;

/**
 * Whether libvirtd has a domain whose QEMU it doesn't know. libvirtd writes a domain's status before it has started QEMU.
 * Where it is killed before it has written the pid, the next libvirtd doesn't reconnect to the domain, which has no pid
 * (qemuProcessReconnectHelper), but keeps the job in the status: nothing ends that job, and `destroy` waits for it until its
 * deadline. The status of a domain that the present libvirtd is starting is younger than libvirtd.
 */
export async function isOrphaned(name: string): Promise<boolean> {
  if (await exists(orphanFile(name))) return true;
  const status = await readText(statusFile(name));
  if (status === null || !/<domstatus\b[^>]*\bpid='0'/.test(status)) return false;
  const [writtenMs, startedMs] = await Promise.all([modifiedMs(statusFile(name)), modifiedMs(daemonPidFile)]);
  return writtenMs !== null && startedMs !== null && writtenMs < startedMs;
}

/**
 * Removes an orphaned domain: kills QEMU, which may have started after all; removes its status files; then kills libvirtd,
 * which drops the domain only at a restart. libvirtd's supervisor starts it again, and running domains aren't affected.
 * Continues a removal that was interrupted. Throws host-busy while QEMU doesn't end.
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

async function argvOf(pid: number): Promise<string[]> {
  try {
    return (await readText(`/proc/${pid}/cmdline`))?.split('\0') ?? [];
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return [];
    throw error;
  }
}

const modifiedMs = async (path: string): Promise<number | null> => (await statOrNull(path))?.mtimeMs ?? null;
