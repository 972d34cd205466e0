import type { EarlierConsole } from '../../contracts/host-migration.ts';
import type { StreamOrder } from '../../contracts/stream.ts';
import type { VmId } from '../../model/ids.ts';

/**
 * Connections between clients and the sessions of guests. They last beyond the call that opens them, and end with this process:
 * the API opens others.
 */
export interface Streams {
  /**
   * Finds the guest's program, connects to the API, and passes frames on until either ends. `conflict` where the domain does
   * not run here; `guest-program-missing`; `rate-limited` where the host or the owner has as many as it may.
   */
  open(domain: string, order: StreamOrder): Promise<void>;
}

/**
 * What a guest wrote to its console on the hosts where it was before: the last 1 MiB of it comes after the VM, once it has left
 * there, and is read before what the guest writes here.
 */
export interface ConsoleHistory {
  /** Has the console begin anew, of a VM that comes to this host; it must not run here. null: it has no history. */
  expect(vmId: VmId, from: EarlierConsole | null): Promise<void>;
  /**
   * At a host that the VM has left: keeps the history for a day, for the placement that the VM has now. null: it was never to
   * come, and nothing is expected any more. Repeatable; a disk without space loses the history and nothing else.
   */
  leave(vmId: VmId, forGeneration: number | null): Promise<void>;
  /** Resolves when what is expected is here, or is not to be had in a moment. */
  arrived(vmId: string): Promise<void>;
}
