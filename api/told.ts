import type { Logger } from 'pino';
import type { VmId } from '../model/ids.ts';

/** What is wanted is in the ledger, whatever becomes of this: the housekeeping workflow repeats what was lost. */
export async function told(log: Logger, id: VmId, tell: () => Promise<void>): Promise<void> {
  try {
    await tell();
  } catch (error) {
    log.warn({ err: error, vmId: id }, 'the workflow could not be told now; housekeeping will');
  }
}
