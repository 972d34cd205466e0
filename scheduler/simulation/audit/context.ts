import type { SimulatedAction } from '../actions.ts';
import type { Schedule } from '../simulator.ts';
import type { Trace } from '../trace.ts';

/** One VM on one host: it uses its share of the host over the interval. */
interface Occupancy {
  lease: string;
  host: string;
  from: number;
  to: number;
}

type Report = (violation: string) => void;

export interface AuditContext {
  trace: Trace;
  schedule: Schedule;
  /** The actions for each lease, in their order. */
  byLease: ReadonlyMap<string, readonly SimulatedAction[]>;
  /** Occupancies of all leases; the check of the leases fills it. */
  occupancies: Occupancy[];
  report: Report;
}

export const toleranceS = 1e-6;

export function checkOneAtATime(report: Report, what: string, list: { from: number; to: number; lease: string }[]): void {
  list.sort((a, b) => a.from - b.from);
  for (const [i, current] of list.entries()) {
    const next = list[i + 1];
    if (next !== undefined && next.from < current.to - toleranceS) report(`${what} ${current.lease} and ${next.lease} at once`);
  }
}
