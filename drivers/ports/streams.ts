import type { StreamOrder } from '../../contracts/stream.ts';

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
