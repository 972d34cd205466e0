import { access, constants } from 'node:fs/promises';
import { ProcessError, run } from '../host/run-process.ts';

/** Where KVM works, a kernel without a disk panics after less than a second. */
const deadlineMs = 8000;
const machine = ['-accel', 'kvm', '-cpu', 'host', '-machine', 'pc', '-m', '128', '-display', 'none', '-nodefaults', '-no-reboot'];

/**
 * Whether guests run on KVM here. `/dev/kvm` alone proves nothing: guests may crash on it, for example on a nested KVM. So a
 * kernel is booted with this machine's own processor model until it panics because it has no disk. Without a kernel the
 * answer is `qemu` or `unknown`.
 */
export async function probeKvm(kernel: string | null): Promise<'kvm' | 'qemu' | 'unknown'> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
    if (kernel === null) return (await startsUnderKvm()) ? 'unknown' : 'qemu';
    const cmdline = 'console=ttyS0 earlyprintk=serial panic=-1';
    const output = await run(['qemu-system-x86_64', ...machine, '-serial', 'stdio', '-kernel', kernel, '-append', cmdline], {
      deadlineMs,
    });
    return output.includes('Kernel panic - not syncing: VFS') ? 'kvm' : 'qemu';
  } catch (error) {
    if (error instanceof ProcessError || (error instanceof Error && 'code' in error)) return 'qemu';
    throw error;
  }
}

/** Whether a machine starts at all: where KVM doesn't support the processor model, QEMU ends at once. */
async function startsUnderKvm(): Promise<boolean> {
  try {
    await run(['qemu-system-x86_64', ...machine], { deadlineMs: 1000 });
    return true;
  } catch (error) {
    if (error instanceof ProcessError) return error.why === 'deadline';
    throw error;
  }
}
