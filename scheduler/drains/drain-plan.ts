import { migrationLimits } from '../migration-target.ts';
import { classifyVms } from './classify-vms.ts';
import type { DrainPlanInput, PlannedMove } from './drain-input.ts';
import { type MoveSchedule, scheduleMoves } from './move-schedule.ts';

export interface DrainPlan {
  strategy: 'sequential' | 'parallel';
  /** In the order of their starts. */
  moves: PlannedMove[];
  /** VMs that no host can take, which are suspended in place: after the moves, and from `suspendByMs` on in any case. */
  suspensions: { vm: string; meanS: number }[];
  suspendByMs: number;
  /** How many moves at a time. */
  concurrency: number;
  leaving: { vm: string; byMs: number | null }[];
  blockers: { vm: string; why: string }[];
  meanS: number;
  boundS: number;
  /** The latest start that meets the deadline with the requested confidence; at least now. */
  startMs: number;
  /** When the host is empty, expected and with that confidence, if the moves start at `startMs`; null with blockers. */
  expectedMs: number | null;
  emptyByMs: number | null;
  /** The earliest deadline that could be promised now; null with blockers without a known end. */
  earliestMs: number | null;
}

/**
 * The moves start this much earlier than their bound requires: predictions may have grown by the start, and timers may be
 * late. Exported for the tests.
 */
export const startMarginS = 1;

/**
 * How to empty a host by a deadline, and when to start. Largest VMs first, each to the target that was given the fewest; of
 * equals, to the one with the most free memory. One move at a time, unless that is too late.
 */
export function planDrain(input: DrainPlanInput): DrainPlan {
  const { nowMs, deadlineMs, strategy } = input;
  const classified = classifyVms(input);
  const sequential = scheduleMoves(input, classified, 1);
  const parallel = scheduleMoves(input, classified, migrationLimits.leaving);
  const inTime = (one: MoveSchedule) => nowMs + one.boundS * 1000 <= deadlineMs;
  const useParallel =
    strategy === 'parallel' || (strategy === 'auto' && !inTime(sequential) && parallel.boundS < sequential.boundS);
  const chosen = useParallel ? parallel : sequential;
  const latestStartMs = ({ boundS }: MoveSchedule) => deadlineMs - (boundS + startMarginS) * 1000;
  const startMs = Math.max(nowMs, latestStartMs(chosen));
  const suspensionsOnly = scheduleMoves(input, { ...classified, moves: [] }, chosen.concurrency);
  const lastMs = Math.max(0, ...classified.leaving.map(({ byMs }) => byMs ?? 0));
  const blocked = classified.blockers.length > 0;
  const isNothingToMove = chosen.moves.length === 0 && chosen.suspensions.length === 0 && classified.moving.length === 0;
  const end = (seconds: number) => Math.max(isNothingToMove ? nowMs : startMs + seconds * 1000, lastMs);
  const ends = blocked && classified.blockersEndMs === null;
  return {
    ...chosen,
    strategy: useParallel ? 'parallel' : 'sequential',
    suspendByMs: Math.max(startMs, latestStartMs(suspensionsOnly)),
    leaving: classified.leaving,
    blockers: classified.blockers,
    startMs,
    expectedMs: blocked ? null : end(chosen.meanS),
    emptyByMs: blocked ? null : end(chosen.boundS),
    earliestMs: ends
      ? null
      : Math.max(
          nowMs + (isNothingToMove ? 0 : fasterSchedule(input, sequential, parallel).boundS + startMarginS) * 1000,
          lastMs,
          classified.blockersEndMs ?? 0,
        ),
  };
}

function fasterSchedule({ strategy }: DrainPlanInput, sequential: MoveSchedule, parallel: MoveSchedule): MoveSchedule {
  if (strategy === 'sequential') return sequential;
  return strategy === 'parallel' || parallel.boundS < sequential.boundS ? parallel : sequential;
}
