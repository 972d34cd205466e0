import type { Logger } from 'pino';

/**
 * Starts or notifies a workflow after the ledger has recorded the request. A failure is logged and not answered: the
 * housekeeping workflow repeats every start and notification that was lost.
 * @param subject ids for the log line
 */
export async function bestEffort(log: Logger, subject: Record<string, string>, notify: () => Promise<void>): Promise<void> {
  try {
    await notify();
  } catch (error) {
    log.warn({ err: error, ...subject }, 'the workflow could not be notified now; housekeeping repeats it');
  }
}
