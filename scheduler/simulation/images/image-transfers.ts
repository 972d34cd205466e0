import { type LeaseRecord, type PlanState, vmStartAt } from '../../leases/plan-state.ts';
import { type ImageStore, imageMiB } from './image-store.ts';

/** Whether a reservation's image must still be sent: hosts that are not final are assumed to lack it. */
function needsTransfer(store: ImageStore, record: LeaseRecord): boolean {
  if (imageMiB(record.lease) === 0 || store.of(record).transferUntil !== null) return false;
  if (!record.bound) return true;
  return record.hosts.some((host) => !store.hasOrAwaits(record, host));
}

/**
 * The latest moments at which the reservations' transfers can start: from the last reservation backwards, each ends
 * when its reservation begins or when the next transfer must start. Earliest deadline first is optimal on one link;
 * the latest moments leave the choice of hosts open and the link free for other transfers.
 */
export function latestTransferStarts(
  state: PlanState,
  store: ImageStore,
  extra?: LeaseRecord,
): { record: LeaseRecord; at: number }[] {
  const pending = state.upcoming.filter((record) => needsTransfer(store, record));
  if (extra !== undefined && needsTransfer(store, extra)) pending.push(extra);
  pending.sort((a, b) => vmStartAt(state, b) - vmStartAt(state, a) || b.seq - a.seq);
  let next = Number.POSITIVE_INFINITY;
  const list = pending.map((record) => {
    next = Math.min(next, vmStartAt(state, record) - state.policy.marginS) - store.transferS(record);
    return { record, at: next };
  });
  return list.reverse();
}

/** Whether the link can send the images of all reservations in time, with one more reservation. */
export function transfersFitInTime(state: PlanState, store: ImageStore, extra: LeaseRecord, now: number): boolean {
  const first = latestTransferStarts(state, store, extra)[0];
  const busyUntil = Math.max(store.transfer?.until ?? now, ...state.hosts.map((host) => host.networkBusyUntil));
  return first === undefined || first.at >= Math.max(now, busyUntil);
}
