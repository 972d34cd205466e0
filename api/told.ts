import type { Logger } from 'pino';

/** What is wanted is in the ledger, whatever becomes of this: the housekeeping workflow repeats what was lost. */
export async function told(log: Logger, of: { vmId: string } | { taskId: string }, tell: () => Promise<void>): Promise<void> {
  try {
    await tell();
  } catch (error) {
    log.warn({ err: error, ...of }, 'the workflow could not be told now; housekeeping will');
  }
}
