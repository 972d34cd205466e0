import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';

/** What every VM writes besides: its record, its console, a description of its domain. */
const overheadMiB = 16;

/**
 * Refuses what a host's disk can't take before anything of it was begun. The ledger counts what was promised; that the
 * disk has it, only its host knows. `disk-full`
 */
export async function requireFreeDisk({ store }: HostPorts, vmId: VmId, needMiB: number): Promise<void> {
  const freeMiB = Math.floor(await store.freeMiB());
  if (freeMiB < needMiB + overheadMiB)
    throw new BerthError(
      'disk-full',
      `taking ${vmId} in: it needs ${needMiB + overheadMiB} MiB of this host's disk, and ${freeMiB} are free; free some, or move it elsewhere`,
    );
}
