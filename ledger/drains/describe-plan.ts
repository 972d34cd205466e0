import type { DrainPlan } from '../../scheduler/drains/drain-plan.ts';
import type { DrainRow } from './drain-row.ts';
import { drainOutline } from './outline.ts';

/** The plan for operators, as Temporal's UI shows it. */
export function describePlan(drain: DrainRow, plan: DrainPlan): string {
  const { expectedAt, emptyBy, startAt } = drainOutline(plan);
  const lines = [
    `**${drain.state}**: ${drain.hostId} is to be empty by ${drain.deadline.toISOString()}`,
    `${plan.moves.length} to move, ${plan.strategy}, in about ${Math.ceil(plan.meanS)} s, at most ${Math.ceil(plan.boundS)} s; from ${startAt} on`,
    emptyBy === null ? null : `empty at about ${expectedAt}, by ${emptyBy} with ${drain.confidence * 100} %`,
    plan.suspensions.length === 0 ? null : `suspended there: ${plan.suspensions.map(({ vm }) => vm).join(', ')}`,
    plan.leaving.length === 0 ? null : `ends by itself: ${plan.leaving.map(({ vm }) => vm).join(', ')}`,
    ...plan.blockers.map(({ vm, why }) => `**in the way**: ${vm}: ${why}`),
  ];
  return lines.filter((line) => line !== null).join('\n\n');
}

/** A drain whose host has no VM in the ledger, while the host's inventory is verified. */
export function describeRemaining({ remaining, hostId }: DrainRow): string {
  if (remaining === null) return `**empty by the ledger**: the inventory of ${hostId} is being verified`;
  return `**not empty yet**: ${remaining.map(({ what, why }) => `${what}: ${why}`).join('; ')}`;
}
