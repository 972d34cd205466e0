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
import type { DrainEventType } from '../../model/events.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { writeDrainEvent } from './drain-event.ts';

/** Delay before a failed move is requested again; it doubles with each further failure of the VM. */
export const backoffMs = 2_000;
/** How long after the deadline a drain waits for VMs that are about to end by themselves. */
export const graceMs = 30_000;

export interface DrainRow {
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
  reason: string | null;
  remaining: Remaining[] | null;
  /** When its workflow ran its first step; null during that step. */
  workflowAt: Date | null;
  cancelRequestedAt: Date | null;
}

/** One step of a drain: what it read, and what it has decided so far. */
export interface DrainContext {
  deps: LedgerDeps;
  tx: Transaction;
  drain: DrainRow;
  nowMs: number;
  /** The drain's own migrations that are under way. */
  migrations: DrainMove[];
  /** VMs whose workflows have to suspend or restore them for the drain. */
  vmsToNotify: VmId[];
  recoveries: Recovery[];
}

/** Locks a drain to the end of the transaction. Throws not-found. */
export async function lockDrain(deps: LedgerDeps, tx: Transaction, id: DrainId): Promise<DrainContext> {
  const rows = await tx.$queryRaw<DrainRow[]>`SELECT * FROM "Drain" WHERE id = ${id} FOR UPDATE`;
  const drain = oneOrNotFound(rows, `drain ${id}`);
  return { deps, tx, drain, nowMs: deps.clock(), migrations: [], vmsToNotify: [], recoveries: [] };
}

/** Whether the host is empty, or was, so that there is nothing left to verify. */
export const hasBeenEmptied = ({ state }: DrainRow): boolean => isDrainOver(state) || state === 'held' || state === 'returning';

export function stepResult(context: DrainContext, more: Partial<DrainStep>): DrainStep {
  const { drain, migrations: moves, vmsToNotify, recoveries } = context;
  const { state, hostId: host } = drain;
  // The first step closes the host: what the plan has there needs another host.
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
  return { state, host, moves, vmsToNotify: [...new Set(vmsToNotify)], recoveries, notifications, ...nothing, ...more };
}

/** Writes the state unless the drain has it already, and its event. */
export async function enterState(
  { tx, drain, deps }: DrainContext,
  state: DrainState,
  event?: DrainEventType,
  remaining: Remaining[] = [],
): Promise<void> {
  const now = isoNow(deps);
  if (drain.state !== state) {
    const stored = remaining.length === 0 ? null : JSON.stringify(remaining);
    await tx.$executeRaw`
      UPDATE "Drain" SET state = ${state}::"DrainState", remaining = ${stored}::jsonb,
        "finishedAt" = CASE WHEN ${isDrainOver(state)} THEN ${now}::timestamptz END,
        "emptiedAt" = CASE WHEN ${state === 'held' || state === 'empty'} THEN ${now}::timestamptz ELSE "emptiedAt" END
      WHERE id = ${drain.id}`;
    drain.state = state;
  }
  if (event !== undefined) await writeDrainEvent(tx, drain, event, now, remaining);
}

/** Gives the drain's host back the admission that it had before the drain closed it. */
export async function restoreHostAdmission(tx: Transaction, drain: DrainId): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Host" h SET schedulable = d."wasSchedulable", "acceptsMigrations" = d."wasAccepting"
    FROM "Drain" d WHERE d.id = ${drain} AND h.id = d."hostId"`;
}

/** Opens the host again. Returns the workflows to notify of what was placed there. */
export async function openHost({ tx, drain, deps }: DrainContext): Promise<Notification[]> {
  await restoreHostAdmission(tx, drain.id);
  return (await placeWaiting(deps, tx)).notify;
}
