import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';

/** What every VM writes besides its disks and memory: its record, its console, its domain's XML. */
const overheadMiB = 16;

/**
 * Refuses with `disk-full`, before anything is written, what the host's disk can't take. The ledger counts what it has
 * reserved; only the host knows what is free.
 */
export async function requireFreeDisk({ store }: HostPorts, vmId: VmId, needMiB: number): Promise<void> {
  const freeMiB = Math.floor(await store.freeMiB());
  if (freeMiB < needMiB + overheadMiB)
    throw new BerthError(
      'disk-full',
      `preparing for ${vmId}: it needs ${needMiB + overheadMiB} MiB of this host's disk, and ${freeMiB} are free; free some, or migrate it to another host`,
    );
}
