import { patched, workflowInfo } from '@temporalio/workflow';

/**
 * The events after which a loop continues as new where the server does not suggest it: it suggests 4,096 since 1.20, and a
 * test server never does. Between two checks a loop adds some dozens at the most.
 */
const maxEvents = 8000;

/** Whether the next wait has to begin in a new run, so that the history stays short. */
export function isHistoryLong(): boolean {
  const { continueAsNewSuggested, historyLength } = workflowInfo();
  return continueAsNewSuggested || historyLength >= maxEvents;
}

/**
 * The same for a loop that did not continue as new when 0.2 began: a run that was under way then has longer histories, which
 * have to be replayed as they are.
 * @param loop names the change; once a run has written it into its history, its name has to stay
 */
export const isHistoryLongSince = (loop: string): boolean => isHistoryLong() && patched(loop);
