import type { DrainStep } from '../../contracts/ledger.ts';
import { drainEventTypes } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import { isoNow, isoOf } from '../transaction.ts';
import { type DrainContext, enterState, openHost, stepResult } from './drain-row.ts';
import { requestMove } from './request-move.ts';
import { readFailedRestores, readInPlaceOperations, releaseInPlace } from './suspended-in-place.ts';

/** How often a drain tries to migrate one VM back. */
const maxReturns = 2;

/** The host remains empty until the time at which its VMs return. */
export async function holdEmpty(context: DrainContext): Promise<DrainStep> {
  const { drain, nowMs } = context;
  const untilMs = drain.returnAfter?.getTime() ?? nowMs;
  if (nowMs < untilMs) return stepResult(context, { waitMs: untilMs - nowMs, summary: `**empty** until ${isoOf(untilMs)}` });
  return reopen(context, 'returned');
}

/** Aborts the migrations that are under way; then opens the host again. */
export async function cancelDrain(context: DrainContext): Promise<DrainStep> {
  const { tx, drain, migrations, deps } = context;
  if (migrations.length > 0) {
    await tx.$executeRaw`
      UPDATE "Migration" SET "abortRequestedAt" = ${isoNow(deps)}::timestamptz
      WHERE "requestedBy" = ${drain.id} AND state IN ('running', 'stuck') AND "abortRequestedAt" IS NULL`;
    const summary = `**cancelled**; ${migrations.length} migrations are being aborted`;
    return stepResult(context, { abort: migrations, summary });
  }
  return reopen(context, 'cancelled');
}

/**
 * Restores the VMs that are suspended on the host first, in the capacity that they left; then opens the host, and migrates
 * the others back where that was requested.
 */
async function reopen(context: DrainContext, end: 'returned' | 'cancelled'): Promise<DrainStep> {
  const { tx, drain, nowMs } = context;
  const suspending = await readInPlaceOperations(tx, [drain.id], 'suspend');
  if (suspending.length > 0)
    return stepResult(context, {
      vmsToNotify: suspending,
      summary: `**opened again** once ${suspending.join(', ')} are suspended, and restored`,
    });
  await releaseInPlace(tx, [drain.id], nowMs);
  const restoring = await readInPlaceOperations(tx, [drain.id], 'restore');
  if (restoring.length > 0) {
    const summary = `**opened again** once ${restoring.join(', ')} are restored`;
    return stepResult(context, { vmsToNotify: restoring, summary });
  }
  if (drain.goBack) {
    await enterState(context, 'returning');
    const notifications = await openHost(context);
    return { ...(await returnVms(context)), notifications };
  }
  await enterState(context, end, drainEventTypes[end], await readFailedRestores(tx, drain.id));
  return stepResult(context, { notifications: await openHost(context) });
}

/** Migrates the VMs back that this drain has moved and that are still where it moved them, one at a time. */
export async function returnVms(context: DrainContext): Promise<DrainStep> {
  const { drain, migrations } = context;
  const returning = () => `**returning** ${migrations.map(({ vm }) => vm).join(', ')}`;
  if (migrations.length > 0) return stepResult(context, { summary: returning() });
  if (drain.cancelRequestedAt !== null && !drain.goBack) return finishReturn(context);
  const away = await readMovedVms(context);
  const move = { to: drain.hostId, moveDisk: drain.moveDisks, reason: `${drain.hostId} is open again` };
  for (const { vm, isAtRest, paused, tries } of away) {
    const mode = isAtRest || (drain.mode === 'cold' && !paused) ? 'cold' : 'live';
    if (tries < maxReturns && (await requestMove(context, { ...move, vm, mode }))) break;
  }
  if (migrations.length === 0) return finishReturn(context);
  return stepResult(context, { summary: `${returning()}; ${away.length} are away` });
}

interface MovedVm {
  vm: VmId;
  /** It has no domain. */
  isAtRest: boolean;
  paused: boolean;
  /** Migrations back so far. */
  tries: number;
}

async function readMovedVms({ tx, drain }: DrainContext): Promise<MovedVm[]> {
  return tx.$queryRaw<MovedVm[]>`
    SELECT v.id AS vm, v.asleep OR v.state IN ('stopped', 'crashed') AS "isAtRest", v.state = 'paused' AS paused, (SELECT count(*)::int FROM "Migration" b WHERE b."vmId" = v.id AND b."requestedBy" = ${drain.id}
      AND b."toId" = ${drain.hostId}) AS tries
    FROM "Vm" v WHERE v.state IN ('running', 'paused', 'suspended', 'stopped', 'crashed') AND v."hostId" <> ${drain.hostId} AND EXISTS (
      SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m."requestedBy" = ${drain.id} AND m."fromId" = ${drain.hostId}
        AND m.state = 'succeeded' AND m.mode <> 'disks' AND m."toId" = v."hostId")
    ORDER BY v.id`;
}

async function finishReturn(context: DrainContext): Promise<DrainStep> {
  const { tx, drain } = context;
  const end = drain.cancelRequestedAt === null ? 'returned' : 'cancelled';
  await enterState(context, end, drainEventTypes[end], await readFailedRestores(tx, drain.id));
  return stepResult(context, {});
}
