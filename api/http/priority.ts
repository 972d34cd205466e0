import { BerthError } from '../../model/errors.ts';
import type { Caller } from './auth.ts';

/** The highest priority by role: the queue is everybody's, so that a client may let others pass, and only operators go first. */
const highest: Record<Caller['role'], number> = { client: 0, operator: 100 };

/** Refuses (`forbidden`) a priority that is above the caller's. */
export function refuseHighPriority(caller: Caller, priority: number | undefined): void {
  const most = highest[caller.role];
  if (priority === undefined || priority <= most) return;
  throw new BerthError('forbidden', `A priority of ${priority} is for keys with the operator role`, {
    fields: [{ pointer: '/lease/priority', detail: `found ${priority}; expected at most ${most}` }],
  });
}
