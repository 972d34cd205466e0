import { readdirSync, readFileSync } from 'node:fs';
import { systemClock } from '../host/clock.ts';
import { isErrno, readText } from '../host/files.ts';
import type { ProcessHandle } from '../ports/migrator.ts';

/** libvirt's folder for the status of its domains and QEMU's pids. */
export const statusFolder = '/run/libvirt/qemu';

export const qemuPidFile = (domain: string): string => `${statusFolder}/${domain}.pid`;

/** null where there is no such file or no pid in it. */
export async function readPid(path: string): Promise<number | null> {
  const pid = Number((await readText(path))?.trim());
  return Number.isSafeInteger(pid) && pid > 0 ? pid : null;
}

/** A thread, or a process by its first thread, from /proc (proc_pid_stat(5)). */
interface Thread {
  /** It is exiting in the kernel, and never executes its program again. */
  exiting: boolean;
  /** Distinguishes it from a later thread with the same number. */
  startTime: string;
}

/** PF_EXITING of the kernel's include/linux/sched.h: set before a thread's memory is freed, which takes a while. */
const exitingFlag = 0x4;

function readThread(path: string): Thread | null {
  try {
    const text = readFileSync(`${path}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { exiting: 'ZX'.includes(fields[0] ?? '') || (Number(fields[6]) & exitingFlag) !== 0, startTime: fields[19] ?? '' };
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ESRCH')) return null;
    throw error;
  }
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map((thread) => `/proc/${pid}/task/${thread}`);
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ESRCH')) return [];
    throw error;
  }
}

/** A migrated guest is paused until the end of the source's process is seen. A poll takes some 20 µs. */
const endPollMs = 2;

/** null where there is no such process. A process has ended once all its threads are exiting. */
export function watchPid(pid: number): ProcessHandle | null {
  const first = readThread(`/proc/${pid}`);
  if (first === null) return null;
  const hasEnded = (): boolean => {
    const now = readThread(`/proc/${pid}`);
    if (now === null || now.startTime !== first.startTime) return true;
    return now.exiting && threadsOf(pid).every((thread) => readThread(thread)?.exiting !== false);
  };
  return {
    hasEnded,
    async waitForEnd(signal) {
      while (!hasEnded()) await systemClock.sleep(endPollMs, signal);
    },
  };
}
