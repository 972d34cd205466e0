import type { Logger } from 'pino';

/** What is wanted is in the ledger, whatever becomes of this: the housekeeping workflow repeats what was lost. */
export async function bestEffort(
  log: Logger,
  of: { vmId: string } | { taskId: string },
  notify: () => Promise<void>,
): Promise<void> {
  try {
    await notify();
  } catch (error) {
    log.warn({ err: error, ...of }, 'the workflow could not be told now; housekeeping will');
  }
}
