import type { DrainStep } from '../../contracts/ledger.ts';
import { drainEventTypes } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import type { DrainPlanInput } from '../../scheduler/drains/drain-input.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { isoNow } from '../transaction.ts';
import { describePlan, describeRemaining } from './describe-plan.ts';
import { backoffMs, type DrainContext, type DrainRow, enterState, graceMs, stepResult } from './drain-row.ts';
import type { DrainVmState } from './host-vms.ts';
import { drainOutline } from './outline.ts';
import { readDrainInput } from './planner-input.ts';
import { imagesFor, requestMove } from './request-move.ts';
import { claimIfSuspended, isSuspensionDue, requestSuspension } from './request-suspension.ts';

/** How long after the deadline moves are still attempted, such as to a target that cannot fetch the image. */
const giveUpAfterMs = 600_000;
/**
 * A drain that is ahead of its plan by this and a quarter of the remaining work waits before its next move: moves that
 * took less time than planned, or a postponed deadline, are no reason to empty the host long before it is needed.
 */
const slackMs = { least: 5_000, part: 0.25 } as const;
/** Interval between two steps of a drain that waits for its start: a quarter of the remaining time, within these bounds. */
const pollMs = { least: 2_000, most: 600_000 } as const;

/** Plans the drain anew and begins what is due. */
export async function emptyHost(context: DrainContext): Promise<DrainStep> {
  const { tx, drain, nowMs } = context;
  const input = await readDrainInput(tx, {
    host: drain.hostId,
    drain: drain.id,
    deadlineMs: drain.deadline.getTime(),
    strategy: drain.strategy,
    mode: drain.mode,
    moveDisks: drain.moveDisks,
    suspendInPlace: drain.suspendInPlace,
    confidence: drain.confidence,
    nowMs,
  });
  const plan = planDrain(input);
  await tx.$executeRaw`UPDATE "Drain" SET plan = ${JSON.stringify(drainOutline(plan))}::jsonb WHERE id = ${drain.id}`;
  if (isUnreachable(input, drain)) return waitForHost(context);
  if (input.vms.length === 0) return stepResult(context, { verifyEmpty: true, summary: describeRemaining(drain) });
  const inPhase = (kind: DrainVmState['phase']['kind']) => input.vms.filter(({ phase }) => phase.kind === kind);
  const ids = (vms: readonly DrainVmState[]) => vms.map(({ id }) => id as VmId);
  context.vmsToNotify.push(...ids(inPhase('suspending')));
  const underWay = inPhase('moving').length + inPhase('suspending').length;
  const sampleLoads = ids(inPhase('movable'));
  if (drain.state === 'paused')
    return stepResult(context, { sampleLoads, summary: `**paused** with ${input.vms.length} VMs on the host` });
  if (underWay === 0 && isOverdue(drain, plan, nowMs)) {
    const remaining = input.vms.map((vm) => ({ what: vm.id, why: reasonRemaining(vm, plan) }));
    await enterState(context, 'incomplete', drainEventTypes.incomplete, remaining);
    return stepResult(context, {});
  }
  const startIsDue = isStartDue(drain, plan, nowMs, underWay);
  if (!startIsDue) await enterState(context, 'waiting');
  else {
    if (plan.moves.length + plan.suspensions.length + underWay > 0) await markStarted(context, plan);
    // A VM that was suspended already counts as suspended in place from now on, so the rest is planned without it.
    if (await beginMoves(context, plan, input.vms, plan.concurrency - underWay)) return emptyHost(context);
  }
  return stepResult(context, {
    sampleLoads,
    cancelTemplateBuilds: input.vms.some(({ template }) => template),
    waitMs: startIsDue ? null : waitForStartMs(plan.startMs - nowMs),
    images: await imagesFor(context, plan.moves),
    summary: describePlan(drain, plan),
  });
}

const isUnreachable = ({ hosts }: DrainPlanInput, { hostId, state }: DrainRow): boolean =>
  state !== 'paused' && hosts.some((host) => host.id === hostId && host.state === 'unknown');

/** Nothing can be moved from a host that does not answer, nor verified: the drain waits for it, also past its deadline. */
async function waitForHost(context: DrainContext): Promise<DrainStep> {
  const { drain } = context;
  await enterState(context, 'waiting');
  return stepResult(context, { summary: `**waits for ${drain.hostId}**, which does not answer` });
}

const waitForStartMs = (remainingMs: number): number =>
  Math.min(remainingMs, Math.max(pollMs.least, Math.min(pollMs.most, remainingMs / 4)));

/** Whether the deadline has passed and either no step is left for the remaining VMs, or every attempt has failed for long enough. */
function isOverdue(drain: DrainRow, plan: DrainPlan, nowMs: number): boolean {
  const lateMs = nowMs - drain.deadline.getTime();
  if (plan.moves.length + plan.suspensions.length > 0) return lateMs >= Math.max(giveUpAfterMs, 10 * plan.boundS * 1000);
  return lateMs >= (plan.leaving.length > 0 ? graceMs : 0);
}

function isStartDue(drain: DrainRow, plan: DrainPlan, nowMs: number, underWay: number): boolean {
  if (underWay > 0 || nowMs >= plan.startMs) return true;
  return drain.state === 'moving' && plan.startMs - nowMs < slackMs.least + slackMs.part * plan.meanS * 1000;
}

function reasonRemaining(vm: DrainVmState, plan: DrainPlan): string {
  const blocker = plan.blockers.find((one) => one.vm === vm.id);
  if (blocker !== undefined) return blocker.why;
  if (plan.moves.some((one) => one.vm === vm.id)) return 'its migration could not begin: see the details of the drain';
  if (plan.suspensions.some((one) => one.vm === vm.id)) return 'its suspension on the host could not begin';
  return vm.phase.kind === 'settling' ? vm.phase.why : 'its time was to end before the deadline, and it is still on the host';
}

/** At the first move, the prediction is recorded against which the drain is measured. */
async function markStarted(context: DrainContext, plan: DrainPlan): Promise<void> {
  const { tx, drain, deps } = context;
  await enterState(context, 'moving', drainEventTypes.started);
  await tx.$executeRaw`
    UPDATE "Drain" SET "startedAt" = ${isoNow(deps)}::timestamptz, "predictedS" = ${plan.meanS}, "boundS" = ${plan.boundS}
    WHERE id = ${drain.id} AND "startedAt" IS NULL`;
}

/**
 * Requests as many of the planned moves as may run concurrently; after them, or when their time has come, the suspensions
 * in place. Returns whether a VM was found suspended already, which leaves nothing to do for it.
 */
async function beginMoves(
  context: DrainContext,
  plan: DrainPlan,
  vms: readonly DrainVmState[],
  freeSlots: number,
): Promise<boolean> {
  const { drain, nowMs } = context;
  const reason = drain.reason ?? `${drain.hostId} is to be empty by ${drain.deadline.toISOString()}`;
  const stateOf = (id: string): DrainVmState => {
    const vm = vms.find((one) => one.id === id);
    if (vm === undefined) throw new Error(`BUG: ${id} is in the drain's plan, and not on the host`);
    return vm;
  };
  let slotsLeft = freeSlots;
  let movesLeft = plan.moves.length;
  for (const move of plan.moves) {
    if (slotsLeft <= 0) return false;
    if (isBackingOff(stateOf(move.vm), nowMs) || (await imagesFor(context, [move])).length > 0) continue;
    if (!(await requestMove(context, { vm: move.vm, to: move.to, mode: move.mode, moveDisk: move.withDisks, reason }))) continue;
    slotsLeft -= 1;
    movesLeft -= 1;
  }
  if (movesLeft > 0 && nowMs < plan.suspendByMs) return false;
  let foundSuspended = false;
  for (const vm of plan.suspensions.map((one) => stateOf(one.vm))) {
    if (vm.suspended === true) foundSuspended = (await claimIfSuspended(context, vm)) || foundSuspended;
    else if (slotsLeft > 0 && isSuspensionDue(vm, nowMs) && (await requestSuspension(context, vm))) slotsLeft -= 1;
  }
  return foundSuspended;
}

function isBackingOff({ failed, lastFailedMs }: DrainVmState, nowMs: number): boolean {
  return lastFailedMs !== null && nowMs < lastFailedMs + backoffMs * 2 ** Math.min(failed.length - 1, 6);
}
