import { planAdmission } from './admission.ts';
import { type SiteRead, siteOf } from './ledger-site.ts';
import { planSchedule } from './schedule.ts';
import { planStep } from './step.ts';
import { planWithdrawal } from './withdrawal.ts';

/** What a site is planned for. Each is a pure function of the site as it was read, and of a request or a moment. */
const planKinds = { step: planStep, admission: planAdmission, schedule: planSchedule, withdrawal: planWithdrawal };

type PlanKinds = typeof planKinds;
export type PlanKind = keyof PlanKinds;
export type PlanInput<K extends PlanKind> = Parameters<PlanKinds[K]>[1];
export type PlanOf<K extends PlanKind> = ReturnType<PlanKinds[K]>;

/** Makes a plan in the calling thread. */
export function makePlan<K extends PlanKind>(kind: K, read: SiteRead, input: PlanInput<K>): PlanOf<K> {
  const plan = planKinds[kind] as (site: ReturnType<typeof siteOf>, input: PlanInput<K>) => PlanOf<K>;
  return plan(siteOf(read), input);
}

/** From the caller's thread, and its answer. */
export interface PlanOrder {
  id: number;
  kind: PlanKind;
  read: SiteRead;
  input: PlanInput<PlanKind>;
}
export type PlanAnswer = { id: number; plan: PlanOf<PlanKind> } | { id: number; failed: string };
