import type { Transaction } from '../transaction.ts';
import { inPlan } from './plan/plan-thread.ts';
import { readSite } from './plan/read-site.ts';
import type { SiteSchedule } from './plan/schedule.ts';

export type { ScheduledLease, SiteSchedule } from './plan/schedule.ts';

/** The plan of this moment: when every lease is expected to start or resume, and to end. Changes nothing. */
export async function readSchedule(tx: Transaction, nowMs: number): Promise<SiteSchedule> {
  return inPlan('schedule', await readSite(tx, { hosts: [], others: 'leases' }), nowMs);
}
