import type { SimulatedAction } from '../actions.ts';
import type { Schedule } from '../simulator.ts';
import type { Trace } from '../trace.ts';
import { checkCapacity, checkDrains, checkNetwork, checkOperations } from './check-hosts.ts';
import { checkImageLink, checkImages } from './check-images.ts';
import { checkLeases } from './check-leases.ts';
import type { AuditContext } from './context.ts';

/**
 * Checks a schedule against its trace. Uses nothing else: it shares no code with the planner and trusts none of the
 * planner's own statements. @returns one sentence for each violated guarantee
 */
export function audit(trace: Trace, schedule: Schedule): string[] {
  const violations: string[] = [];
  const report = (violation: string) => void violations.push(violation);
  const context: AuditContext = { trace, schedule, byLease: actionsByLease(schedule), occupancies: [], report };
  // First: it fills the occupancies that the checks of hosts read.
  checkLeases(context);
  checkCapacity(context);
  checkDrains(context);
  checkOperations(context);
  checkImageLink(context);
  checkNetwork(context);
  checkImages(context);
  return violations;
}

function actionsByLease({ actions }: Schedule): Map<string, SimulatedAction[]> {
  const byLease = new Map<string, SimulatedAction[]>();
  for (const action of actions) {
    if (!('lease' in action)) continue;
    const list = byLease.get(action.lease);
    if (list === undefined) byLease.set(action.lease, [action]);
    else list.push(action);
  }
  return byLease;
}
