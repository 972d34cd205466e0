import { readFile, rm, stat } from 'node:fs/promises';
import { BerthError } from '../model/errors.ts';
import { isErrno } from './files.ts';
import { watchPid } from './migrator.ts';

const folder = '/run/libvirt/qemu';
/** libvirtd writes it when it begins. */
const daemonPidFile = '/run/libvirtd.pid';
/** A guest's memory is given back first. */
const endMs = 30_000;

/**
 * Whether libvirtd has a domain whose QEMU it doesn't know. It writes a domain's status down before it has started QEMU;
 * killed before it writes the pid too, it is followed by one that connects to no domain without a pid
 * (qemuProcessReconnectHelper), yet keeps the job that is written there: nobody ends that job, and whoever asks to end
 * the domain waits for it in vain. While this libvirtd is starting a domain itself, its status is younger.
 */
export async function isLost(name: string): Promise<boolean> {
  const status = await content(`${folder}/${name}.xml`);
  if (status === null || !/<domstatus\b[^>]*\bpid='0'/.test(status)) return false;
  const [written, began] = await Promise.all([changedMs(`${folder}/${name}.xml`), changedMs(daemonPidFile)]);
  return written !== null && began !== null && written < began;
}

/**
 * Ends a lost domain as libvirtd would: QEMU first, which may have come to life; then what is written of it; then libvirtd,
 * which forgets it only so. Whatever starts libvirtd starts it again, and running domains don't notice. Does it again
 * where it was cut short before. Throws host-busy while QEMU doesn't end.
 */
export async function endLost(name: string): Promise<void> {
  const pid = await pidIn(`${folder}/${name}.pid`);
  if (pid !== null && (await argvOf(pid)).some((word) => word.startsWith(`guest=${name},`))) {
    const qemu = watchPid(pid);
    kill(pid);
    await qemu?.end(AbortSignal.timeout(endMs)).catch((error: unknown) => {
      throw new BerthError('host-busy', `QEMU of ${name}, process ${pid}, got SIGKILL and hasn't ended in ${endMs} ms`, {
        cause: error,
      });
    });
  }
  const daemon = await pidIn(daemonPidFile);
  await rm(`${folder}/${name}.xml`, { force: true });
  await rm(`${folder}/${name}.pid`, { force: true });
  if (daemon !== null && (await argvOf(daemon))[0]?.endsWith('libvirtd') === true) kill(daemon);
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

async function pidIn(path: string): Promise<number | null> {
  const pid = Number((await content(path))?.trim());
  return Number.isSafeInteger(pid) && pid > 0 ? pid : null;
}

const argvOf = async (pid: number): Promise<string[]> => (await content(`/proc/${pid}/cmdline`))?.split('\0') ?? [];

async function content(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ESRCH')) return null;
    throw error;
  }
}

async function changedMs(path: string): Promise<number | null> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    throw error;
  }
}
