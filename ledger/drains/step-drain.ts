import type { DrainStep, Notification, Recovery } from '../../contracts/ledger.ts';
import {
  type DrainId,
  type DrainMode,
  type DrainMove,
  type DrainState,
  type DrainStrategy,
  isDrainOver,
  type Remaining,
  type SuspendInPlace,
} from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { type DrainEventType, drainEventTypes } from '../../model/events.ts';
import type { HostInventory } from '../../model/host.ts';
import type { HostId, ImageId, VmId } from '../../model/ids.ts';
import type { PlannedMode, PlannedMove } from '../../scheduler/drains/drain-input.ts';
import { type DrainPlan, planDrain } from '../../scheduler/drains/drain-plan.ts';
import { acceptMigration } from '../migrations/accept-migration.ts';
import { readRecoveries } from '../migrations/measurements.ts';
import { lockPlacement, placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { drainOutline, writeDrainEvent } from './accept-drain.ts';
import { type DrainVmState, readDrainInput, readHostVms } from './planner-input.ts';
import {
  readFailedRestores,
  readInPlaceOperations,
  readSuspendedInPlace,
  releaseInPlace,
  tryAcceptOperation,
} from './suspended-in-place.ts';

interface DrainRow {
  id: DrainId;
  hostId: HostId;
  ownerId: string;
  state: DrainState;
  deadline: Date;
  strategy: DrainStrategy;
  mode: DrainMode;
  moveDisks: boolean;
  suspendInPlace: SuspendInPlace;
  confidence: number;
  returnAfter: Date | null;
  goBack: boolean;
  wasSchedulable: boolean;
  wasAccepting: boolean;
  reason: string | null;
  remaining: Remaining[] | null;
  /** When its workflow first asked; null in the look that is the first. */
  workflowAt: Date | null;
  startedAt: Date | null;
  cancelRequestedAt: Date | null;
}

/** A move that failed is asked for again after this; twice as long after each further failure. */
const backoffMs = 2_000;
/** After the deadline, for how long what is about to end by itself is waited for. */
const graceMs = 30_000;
/** After the deadline, for how long it is tried to begin a move, such as to a target that can't fetch the image. */
const giveUpAfterMs = 600_000;
/**
 * A drain that is ahead by this and a quarter of what is left to do waits before its next move: moves that were quicker
 * than they had to be, or a deadline that was put off, are no reason to have the host empty long before it is needed.
 */
const slackMs = { least: 5_000, part: 0.25 } as const;
/** Between two looks at a drain that waits for its start: a quarter of the time that is left, within these. */
const pollMs = { least: 2_000, most: 600_000 } as const;
/** How often a VM is sent back to where it came from. */
const maxReturns = 2;

async function lockDrain(tx: Transaction, id: DrainId): Promise<DrainRow> {
  const rows = await tx.$queryRaw<DrainRow[]>`SELECT * FROM "Drain" WHERE id = ${id} FOR UPDATE`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no drain ${id} in the ledger`);
  return rows[0];
}

/** What one look at a drain found out, and did. */
interface DrainContext {
  deps: LedgerDeps;
  tx: Transaction;
  drain: DrainRow;
  nowMs: number;
  /** Its own migrations that are under way. */
  migrations: DrainMove[];
  /** VMs whose workflows are to suspend or restore them for it. */
  notify: VmId[];
  recoveries: Recovery[];
}

/**
 * Looks at where a drain stands, decides what is next, and writes both down, in one transaction: the plan, the state, and
 * the migrations that are to begin. So a saga that is killed between two of its lines has lost nothing, and looks again.
 */
export async function stepDrain(deps: LedgerDeps, id: DrainId): Promise<DrainStep> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const drain = await lockDrain(tx, id);
    await tx.$executeRaw`
      UPDATE "Drain" SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz) WHERE id = ${id}`;
    const nowMs = deps.clock();
    const recoveries = await readRecoveries(tx, drain, nowMs);
    const context: DrainContext = { deps, tx, drain, nowMs, migrations: await movesOf(tx, id), notify: [], recoveries };
    if (isDrainOver(drain.state)) return stepResult(context, {});
    if (drain.state === 'returning') return returnVms(context);
    if (drain.cancelRequestedAt !== null) return cancel(context);
    return drain.state === 'held' ? holdEmpty(context) : emptyHost(context);
  });
}

async function movesOf(tx: Transaction, id: DrainId): Promise<DrainMove[]> {
  return tx.$queryRaw<DrainMove[]>`
    SELECT id AS migration, "vmId" AS vm, generation FROM "Migration"
    WHERE "requestedBy" = ${id} AND state IN ('running', 'stuck') ORDER BY "createdAt", id`;
}

function stepResult({ drain, migrations: moves, notify, recoveries }: DrainContext, more: Partial<DrainStep>): DrainStep {
  const { state, hostId: host } = drain;
  // Its host was closed: what was planned there goes elsewhere.
  const notifications: Notification[] = drain.workflowAt === null ? ['planner'] : [];
  const nothing = {
    abort: [],
    cancelTemplateBuilds: false,
    images: [],
    verifyEmpty: false,
    waitMs: null,
    summary: '',
    sampleLoads: [],
  };
  return { state, host, moves, vmsToNotify: [...new Set(notify)], recoveries, notifications, ...nothing, ...more };
}

/** Moves the drain on; to its own state is no move. */
async function enterState(
  look: DrainContext,
  state: DrainState,
  event?: DrainEventType,
  remaining: Remaining[] = [],
): Promise<void> {
  const { tx, drain, deps } = look;
  const now = isoNow(deps);
  if (drain.state !== state) {
    const left = remaining.length === 0 ? null : JSON.stringify(remaining);
    await tx.$executeRaw`
      UPDATE "Drain" SET state = ${state}::"DrainState", remaining = ${left}::jsonb,
        "finishedAt" = CASE WHEN ${isDrainOver(state)} THEN ${now}::timestamptz END,
        "emptiedAt" = CASE WHEN ${state === 'held' || state === 'empty'} THEN ${now}::timestamptz ELSE "emptiedAt" END
      WHERE id = ${drain.id}`;
    drain.state = state;
  }
  if (event !== undefined) await writeDrainEvent(tx, drain, event, now, remaining);
}

/** The host takes work again, as it did before. Returns the tasks that were placed by that. */
async function openHost({ tx, drain, deps }: DrainContext): Promise<Notification[]> {
  await tx.host.update({
    where: { id: drain.hostId },
    data: { schedulable: drain.wasSchedulable, acceptsMigrations: drain.wasAccepting },
  });
  return (await placeWaiting(deps, tx)).notify;
}

// ---- vacating ----

async function emptyHost(look: DrainContext): Promise<DrainStep> {
  const { tx, drain, nowMs } = look;
  const question = await readDrainInput(tx, {
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
  const plan = planDrain(question);
  await tx.$executeRaw`UPDATE "Drain" SET plan = ${JSON.stringify(drainOutline(plan))}::jsonb WHERE id = ${drain.id}`;
  const endTemplates = question.vms.some(({ template }) => template);
  const watch = question.vms.filter(({ phase }) => phase.kind === 'movable').map(({ id }) => id as VmId);
  if (question.vms.length === 0) return stepResult(look, { verifyEmpty: true, summary: describeRemaining(drain) });
  const suspending = question.vms.filter(({ phase }) => phase.kind === 'suspending');
  look.notify.push(...suspending.map(({ id }) => id as VmId));
  const underWay = question.vms.filter(({ phase }) => phase.kind === 'moving').length + suspending.length;
  if (drain.state === 'paused')
    return stepResult(look, { sampleLoads: watch, summary: `**paused** with ${question.vms.length} VMs on the host` });
  if (underWay === 0 && isOverdue(drain, plan, nowMs)) {
    const remaining = question.vms.map((vm) => ({ what: vm.id, why: reasonRemaining(vm, plan) }));
    await enterState(look, 'incomplete', drainEventTypes.incomplete, remaining);
    return stepResult(look, {});
  }
  if (!isStartDue(drain, plan, nowMs, underWay)) {
    await enterState(look, 'waiting');
    const leftMs = plan.startMs - nowMs;
    const waitMs = Math.min(leftMs, Math.max(pollMs.least, Math.min(pollMs.most, leftMs / 4)));
    return stepResult(look, {
      sampleLoads: watch,
      cancelTemplateBuilds: endTemplates,
      waitMs,
      images: await imagesFor(look, plan.moves),
      summary: describePlan(drain, plan),
    });
  }
  if (plan.moves.length + plan.suspensions.length + underWay > 0) await markStarted(look, plan);
  // Who sleeps already lies there from now on: the rest of the plan is without him.
  if (await beginMoves(look, plan, question.vms, plan.concurrency - underWay)) return emptyHost(look);
  return stepResult(look, {
    sampleLoads: watch,
    cancelTemplateBuilds: endTemplates,
    images: await imagesFor(look, plan.moves),
    summary: describePlan(drain, plan),
  });
}

/** The deadline has passed, and nothing more can be done about what is still there; or nothing that was done has helped. */
function isOverdue(drain: DrainRow, plan: DrainPlan, nowMs: number): boolean {
  const late = nowMs - drain.deadline.getTime();
  if (plan.moves.length + plan.suspensions.length > 0) return late >= Math.max(giveUpAfterMs, 10 * plan.boundS * 1000);
  return late >= (plan.leaving.length > 0 ? graceMs : 0);
}

function isStartDue(drain: DrainRow, plan: DrainPlan, nowMs: number, underWay: number): boolean {
  if (underWay > 0 || nowMs >= plan.startMs) return true;
  return drain.state === 'moving' && plan.startMs - nowMs < slackMs.least + slackMs.part * plan.meanS * 1000;
}

function reasonRemaining(vm: DrainVmState, plan: DrainPlan): string {
  const blocker = plan.blockers.find((one) => one.vm === vm.id);
  if (blocker !== undefined) return blocker.why;
  if (plan.moves.some((one) => one.vm === vm.id)) return 'its move could not be begun: see the details of the drain';
  if (plan.suspensions.some((one) => one.vm === vm.id)) return 'its suspension there could not be begun';
  return vm.phase.kind === 'settling' ? vm.phase.why : 'its time was to end before the deadline, and it is still there';
}

/** The first move: what was predicted then is what the drain is measured against. */
async function markStarted(look: DrainContext, plan: DrainPlan): Promise<void> {
  const { tx, drain, deps } = look;
  await enterState(look, 'moving', drainEventTypes.started);
  await tx.$executeRaw`
    UPDATE "Drain" SET "startedAt" = ${isoNow(deps)}::timestamptz, "predictedS" = ${plan.meanS}, "boundS" = ${plan.boundS}
    WHERE id = ${drain.id} AND "startedAt" IS NULL`;
}

/**
 * Asks for as many of the planned moves as there is room for side by side; behind them, or when it is time, for those that
 * are suspended where they are. @returns whether one was found that lay suspended already, and needs nothing more
 */
async function beginMoves(
  look: DrainContext,
  plan: DrainPlan,
  vms: readonly DrainVmState[],
  freeSlots: number,
): Promise<boolean> {
  const { drain, nowMs } = look;
  const reason = drain.reason ?? `${drain.hostId} is to be empty by ${drain.deadline.toISOString()}`;
  const seen = (id: string): DrainVmState => {
    const vm = vms.find((one) => one.id === id);
    if (vm === undefined) throw new Error(`BUG: ${id} is planned, and not on the host`);
    return vm;
  };
  let slotsLeft = freeSlots;
  let toMove = plan.moves.length;
  for (const move of plan.moves) {
    if (slotsLeft <= 0) return false;
    if (isBackingOff(seen(move.vm), nowMs) || (await imagesFor(look, [move])).length > 0) continue;
    if (!(await requestMove(look, { vm: move.vm, to: move.to, mode: move.mode, moveDisk: move.withDisks, reason }))) continue;
    slotsLeft -= 1;
    toMove -= 1;
  }
  if (toMove > 0 && nowMs < plan.suspendByMs) return false;
  let found = false;
  for (const vm of plan.suspensions.map((one) => seen(one.vm))) {
    if (vm.suspended === true) found = (await claimIfSuspended(look, vm)) || found;
    else if (slotsLeft > 0 && isSuspensionDue(vm, nowMs) && (await requestSuspension(look, vm))) slotsLeft -= 1;
  }
  return found;
}

/** Its own workflow suspends it, as if its owner had asked. false: not at this moment. */
async function requestSuspension(look: DrainContext, vm: DrainVmState): Promise<boolean> {
  if (!(await tryAcceptOperation(look.tx, vm.id, 'suspend', look.nowMs))) return false;
  await recordSuspension(look, vm);
  look.notify.push(vm.id as VmId);
  return true;
}

/** It was suspended by its owner: unless he has just asked for it again, it stays so. */
async function claimIfSuspended(look: DrainContext, vm: DrainVmState): Promise<boolean> {
  const { operation } = await look.tx.vm.findUniqueOrThrow({ where: { id: vm.id }, select: { operation: true } });
  if (operation === null) await recordSuspension(look, vm);
  return operation === null;
}

/** From here on it is known whose suspension it is: a saga that is killed now finds it, and the opening of the host ends it. */
async function recordSuspension({ tx, drain, deps }: DrainContext, { id, suspended: asleep }: DrainVmState): Promise<void> {
  const now = isoNow(deps);
  // Of a drain of another time or host: it has nothing to do with where the VM is now.
  await tx.$executeRaw`
    UPDATE "DrainSuspension" SET "releasedAt" = ${now}::timestamptz WHERE "vmId" = ${id} AND "releasedAt" IS NULL AND "drainId" <> ${drain.id}`;
  await tx.$executeRaw`
    INSERT INTO "DrainSuspension" ("drainId", "vmId", "wasSuspended", "askedAt")
    VALUES (${drain.id}, ${id}, ${asleep === true}, ${now}::timestamptz)
    ON CONFLICT ("drainId", "vmId") DO UPDATE SET tries = "DrainSuspension".tries + 1, "askedAt" = EXCLUDED."askedAt",
      "wasSuspended" = EXCLUDED."wasSuspended"`;
}

const isSuspensionDue = ({ suspensions }: DrainVmState, nowMs: number): boolean =>
  suspensions === null || nowMs >= suspensions.askedMs + backoffMs * suspensions.tries;

function isBackingOff({ failed, lastFailedMs: failedMs }: DrainVmState, nowMs: number): boolean {
  return failedMs !== null && nowMs < failedMs + backoffMs * 2 ** Math.min(failed.length - 1, 6);
}

interface MoveRequest {
  vm: string;
  to: string;
  mode: PlannedMode;
  moveDisk: boolean;
  reason: string;
}

/** false: the VM can't move at this moment, which the next look sees for itself. */
async function requestMove(look: DrainContext, move: MoveRequest): Promise<boolean> {
  const { tx, drain, nowMs, migrations: moves } = look;
  try {
    // A guest that begins to write faster than it can be carried goes on as files.
    const orCold = move.mode === 'live' && drain.mode === 'auto';
    const migration = await acceptMigration(tx, { ...move, coldFallback: orCold, requestedBy: drain.id, nowMs });
    const { generation } = await tx.migration.findUniqueOrThrow({ where: { id: migration }, select: { generation: true } });
    moves.push({ migration, vm: move.vm as VmId, generation });
    return true;
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'conflict' || error.code === 'migration-refused')) return false;
    throw error;
  }
}

/** What the targets have to fetch before their VMs come; each image of each host once. */
async function imagesFor({ tx }: DrainContext, moves: readonly PlannedMove[]): Promise<{ host: HostId; image: ImageId }[]> {
  const wanted = JSON.stringify(moves.map(({ vm, to }) => ({ vm, host: to })));
  return tx.$queryRaw<{ host: HostId; image: ImageId }[]>`
    SELECT DISTINCT w.host, v."imageId" AS image
    FROM jsonb_to_recordset(${wanted}::jsonb) AS w(vm text, host text) JOIN "Vm" v ON v.id = w.vm
    WHERE v."imageId" IS NOT NULL
      AND v."hostId" <> w.host AND NOT EXISTS (SELECT FROM "HostImage" i WHERE i."imageId" = v."imageId" AND i."hostId" = w.host)
    ORDER BY w.host, v."imageId"`;
}

// ---- the proof ----

/** What a host has, when the ledger says that it has nothing: the drain's end, or what is still there. */
export async function verifyHostEmpty(deps: LedgerDeps, id: DrainId, found: HostInventory): Promise<boolean> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const drain = await lockDrain(tx, id);
    const look: DrainContext = { deps, tx, drain, nowMs: deps.clock(), migrations: [], notify: [], recoveries: [] };
    if (isDrainOver(drain.state) || drain.state === 'held' || drain.state === 'returning') return true;
    const { hostId: host, moveDisks, suspendInPlace } = drain;
    if ((await readHostVms(tx, { host, drain: id, moveDisks, suspendInPlace })).length > 0) return false;
    const remaining = findRemaining(found, drain, await readSuspendedInPlace(tx, [id]));
    if (remaining.length === 0) {
      await enterState(look, drain.returnAfter === null ? 'empty' : 'held', drainEventTypes.emptied);
      return true;
    }
    if (look.nowMs > drain.deadline.getTime() + graceMs) {
      await enterState(look, 'incomplete', drainEventTypes.incomplete, remaining);
      return true;
    }
    await tx.$executeRaw`UPDATE "Drain" SET remaining = ${JSON.stringify(remaining)}::jsonb WHERE id = ${id}`;
    return false;
  });
}

function findRemaining(
  { domains, disks }: HostInventory,
  { hostId, moveDisks }: DrainRow,
  inPlace: readonly { vm: VmId }[],
): Remaining[] {
  const alive = domains.map(({ name, vmId, state }) => ({
    what: vmId ?? name,
    why: `the hypervisor of ${hostId} still has it, ${state}, and no VM of the ledger runs there`,
  }));
  const folders = disks.map(({ vmId }) => ({ what: vmId, why: `${hostId} still has a folder of it` }));
  const lost = inPlace.filter(({ vm }) => disks.every(({ vmId }) => vmId !== vm));
  const missing = lost.map(({ vm }) => ({ what: vm, why: `it is to lie there suspended, and ${hostId} has no folder of it` }));
  return [...alive, ...(moveDisks ? folders : []), ...missing];
}

/** The host doesn't answer, so nobody can say that it is empty. After the deadline that is the end. */
export async function recordHostNotVerified(deps: LedgerDeps, id: DrainId, why: string): Promise<void> {
  await inTransaction(deps.ledger, async (tx) => {
    const drain = await lockDrain(tx, id);
    if (isDrainOver(drain.state) || drain.state === 'held' || drain.state === 'returning') return;
    const remaining = [{ what: drain.hostId, why: `it could not be asked what it has: ${why}` }];
    const look: DrainContext = { deps, tx, drain, nowMs: deps.clock(), migrations: [], notify: [], recoveries: [] };
    if (look.nowMs > drain.deadline.getTime() + graceMs)
      await enterState(look, 'incomplete', drainEventTypes.incomplete, remaining);
    else await tx.$executeRaw`UPDATE "Drain" SET remaining = ${JSON.stringify(remaining)}::jsonb WHERE id = ${id}`;
  });
}

// ---- the ways back ----

/** The host is empty until its VMs are to come back. */
async function holdEmpty(look: DrainContext): Promise<DrainStep> {
  const { drain, nowMs } = look;
  const untilMs = drain.returnAfter?.getTime() ?? nowMs;
  if (nowMs < untilMs)
    return stepResult(look, { waitMs: untilMs - nowMs, summary: `**empty** until ${new Date(untilMs).toISOString()}` });
  return reopen(look, 'returned');
}

/** What lies suspended there runs again first, in the room that it left; then the host is opened, and who has left comes back. */
async function reopen(look: DrainContext, end: 'returned' | 'cancelled'): Promise<DrainStep> {
  const { tx, drain, nowMs } = look;
  const suspending = await readInPlaceOperations(tx, [drain.id], 'suspend');
  if (suspending.length > 0)
    return stepResult(look, {
      vmsToNotify: suspending,
      summary: `**opened again** once ${suspending.join(', ')} are suspended, and restored`,
    });
  await releaseInPlace(tx, [drain.id], nowMs);
  const restoring = await readInPlaceOperations(tx, [drain.id], 'restore');
  if (restoring.length > 0)
    return stepResult(look, { vmsToNotify: restoring, summary: `**opened again** once ${restoring.join(', ')} are restored` });
  if (drain.goBack) {
    await enterState(look, 'returning');
    const wake = await openHost(look);
    return { ...(await returnVms(look)), notifications: wake };
  }
  await enterState(look, end, drainEventTypes[end], await readFailedRestores(tx, drain.id));
  return stepResult(look, { notifications: await openHost(look) });
}

/** Ends what is under way; then the host is opened, and who has left comes back, if that was asked for. */
async function cancel(look: DrainContext): Promise<DrainStep> {
  const { tx, drain, migrations: moves, deps } = look;
  if (moves.length > 0) {
    await tx.$executeRaw`
      UPDATE "Migration" SET "abortRequestedAt" = ${isoNow(deps)}::timestamptz
      WHERE "requestedBy" = ${drain.id} AND state IN ('running', 'stuck') AND "abortRequestedAt" IS NULL`;
    return stepResult(look, { abort: moves, summary: `**cancelled**; ${moves.length} migrations are being ended` });
  }
  return reopen(look, 'cancelled');
}

/** Those that this drain has moved away and that are still where it left them come back, one at a time. */
async function returnVms(look: DrainContext): Promise<DrainStep> {
  const { tx, drain, migrations: moves } = look;
  const finish = async (): Promise<DrainStep> => {
    const how = drain.cancelRequestedAt === null ? 'returned' : 'cancelled';
    await enterState(look, how, drainEventTypes[how], await readFailedRestores(tx, drain.id));
    return stepResult(look, {});
  };
  if (moves.length > 0) return stepResult(look, { summary: `**returning** ${moves.map(({ vm }) => vm).join(', ')}` });
  if (drain.cancelRequestedAt !== null && !drain.goBack) return finish();
  const away = await tx.$queryRaw<{ vm: VmId; asleep: boolean; tries: number }[]>`
    SELECT v.id AS vm, v.asleep, (SELECT count(*)::int FROM "Migration" b WHERE b."vmId" = v.id AND b."requestedBy" = ${drain.id}
      AND b."toId" = ${drain.hostId}) AS tries
    FROM "Vm" v WHERE v.state IN ('running', 'suspended') AND v."hostId" <> ${drain.hostId} AND EXISTS (
      SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m."requestedBy" = ${drain.id} AND m."fromId" = ${drain.hostId}
        AND m.state = 'succeeded' AND m.mode <> 'disks' AND m."toId" = v."hostId")
    ORDER BY v.id`;
  const back = { to: drain.hostId, moveDisk: drain.moveDisks, reason: `${drain.hostId} is open again` };
  for (const { vm, asleep, tries } of away) {
    const mode = asleep || drain.mode === 'cold' ? 'cold' : 'live';
    if (tries < maxReturns && (await requestMove(look, { ...back, vm, mode }))) break;
  }
  if (look.migrations.length === 0) return finish();
  return stepResult(look, {
    summary: `**returning** ${look.migrations.map(({ vm }) => vm).join(', ')}; ${away.length} are away`,
  });
}

// ---- what is said of it ----

function describePlan(drain: DrainRow, plan: DrainPlan): string {
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

function describeRemaining({ remaining, hostId }: DrainRow): string {
  if (remaining === null) return `**empty by the ledger**: ${hostId} is asked what it has`;
  return `**not empty yet**: ${remaining.map(({ what, why }) => `${what}: ${why}`).join('; ')}`;
}

/** Its workflow was cancelled by an operator: the same as if the API had been asked. */
export async function requestDrainCancel(deps: LedgerDeps, id: DrainId): Promise<void> {
  await deps.ledger.$executeRaw`
    UPDATE "Drain" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "finishedAt" IS NULL`;
}

/** Drains under way that no workflow has asked for: the API died before it could start one. */
export async function listDrainsWithoutWorkflow(
  deps: LedgerDeps,
  olderThanS: number,
): Promise<{ id: DrainId; host: HostId; number: number }[]> {
  const rows = await deps.ledger.drain.findMany({
    where: { finishedAt: null, workflowAt: null, createdAt: { lt: new Date(deps.clock() - olderThanS * 1000) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    take: 100,
  });
  return rows.map(({ id, hostId, number }) => ({ id: id as DrainId, host: hostId as HostId, number }));
}
