import { z } from 'zod';
import type { Blocker, DrainOutline } from '../../model/drain.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { DrainPlan } from '../../scheduler/drains/drain-plan.ts';
import { idOf } from '../row-schemas.ts';

const vm = idOf<VmId>();
const rfc3339 = z.string();

/** The column `plan` of a drain, as drainOutline makes it. */
export const StoredPlan: z.ZodType<DrainOutline> = z.strictObject({
  strategy: z.enum(['sequential', 'parallel']),
  moves: z.array(
    z.strictObject({
      vm,
      to: idOf<HostId>(),
      mode: z.enum(['live', 'cold', 'disks']),
      meanS: z.number(),
      recoveryS: z.number().nullable(),
    }),
  ),
  suspensions: z.array(z.strictObject({ vm, meanS: z.number() })),
  leaving: z.array(z.strictObject({ vm, by: rfc3339.nullable() })),
  blockers: z.array(z.strictObject({ vm, why: z.string() })),
  meanS: z.number(),
  boundS: z.number(),
  startAt: rfc3339,
  expectedAt: rfc3339.nullable(),
  emptyBy: rfc3339.nullable(),
});

/** RFC 3339, never earlier than the time itself: a drain must not claim to be done sooner than its plan. */
export const isoCeil = (ms: number): string => new Date(Math.ceil(ms)).toISOString();
export const isoCeilOrNull = (ms: number | null): string | null => (ms === null ? null : isoCeil(ms));

/** The plan as the drain's row and the API show it. */
export function drainOutline(plan: DrainPlan): DrainOutline {
  return {
    strategy: plan.strategy,
    moves: plan.moves.map(({ vm, to, mode, meanS, recoveryS }) => ({ vm: vm as VmId, to: to as HostId, mode, meanS, recoveryS })),
    suspensions: plan.suspensions.map(({ vm, meanS }) => ({ vm: vm as VmId, meanS })),
    leaving: plan.leaving.map(({ vm, byMs }) => ({ vm: vm as VmId, by: isoCeilOrNull(byMs) })),
    blockers: plan.blockers as Blocker[],
    meanS: plan.meanS,
    boundS: plan.boundS,
    startAt: isoCeil(plan.startMs),
    expectedAt: isoCeilOrNull(plan.expectedMs),
    emptyBy: isoCeilOrNull(plan.emptyByMs),
  };
}
