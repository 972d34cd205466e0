import { readdirSync, readFileSync } from 'node:fs';
import { systemClock } from '../host/clock.ts';
import { isErrno, readText } from '../host/files.ts';
import type { ProcessHandle } from '../ports/migrator.ts';
/** Where libvirt keeps its domains' status and QEMU's pid. */
export const statusFolder = '/run/libvirt/qemu';

export const qemuPidFile = (domain: string): string => `${statusFolder}/${domain}.pid`;

/** null where there is no such file, or no pid in it. */
export async function readPid(path: string): Promise<number | null> {
  const pid = Number((await readText(path))?.trim());
  return Number.isSafeInteger(pid) && pid > 0 ? pid : null;
}

/** What /proc says of a thread, or of a process by its first one (proc_pid_stat(5)). */
interface Thread {
  /** On its way out of the kernel: it never executes anything of its program again. */
  exiting: boolean;
  /** When it started, so that its number given to another isn't taken for it. */
  startTime: string;
}

/** PF_EXITING of the kernel's include/linux/sched.h: set for good before a thread gives its memory back, which takes a while. */
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

/** The guest of a process that has handed over stands still until its end is seen. A look takes some 20 µs. */
const endPollMs = 2;

/** null where there is no such process. One whose every thread is on its way out runs nothing any more. */
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
