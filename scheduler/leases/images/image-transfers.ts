import { type LeaseRecord, type PlanState, transferS, vmStartAt } from '../plan-state.ts';

/** Whether a reservation's image must still be sent: unknown hosts are taken to lack it. */
function needsTransfer(state: PlanState, record: LeaseRecord): boolean {
  const { images } = state.policy;
  if (images === null || record.lease.imageMiB === 0 || record.transferUntil !== null) return false;
  if (!record.bound) return true;
  return record.hosts.some((host) => !hasOrAwaitsImage(state, record, host));
}

export function hasOrAwaitsImage(state: PlanState, record: LeaseRecord, host: number): boolean {
  if (state.policy.images!.cacheMiB === 0) return record.imageCopies.includes(host);
  return state.hosts[host]!.cache.some((cached) => cached.image === record.lease.image);
}

/**
 * The latest moments at which the reservations' transfers can start: from the last reservation backwards, each ends
 * when its reservation begins or when the next transfer must start. Earliest deadline first is optimal on one link;
 * that the latest is chosen leaves the choice of hosts open and the link free for others.
 */
export function latestTransferStarts(state: PlanState, extra?: LeaseRecord): { record: LeaseRecord; at: number }[] {
  const pending = state.upcoming.filter((record) => needsTransfer(state, record));
  if (extra !== undefined && needsTransfer(state, extra)) pending.push(extra);
  pending.sort((a, b) => vmStartAt(state, b) - vmStartAt(state, a) || b.seq - a.seq);
  let next = Number.POSITIVE_INFINITY;
  const list = pending.map((record) => {
    next = Math.min(next, vmStartAt(state, record) - state.policy.marginS) - transferS(state, record);
    return { record, at: next };
  });
  return list.reverse();
}

/** Whether the link can carry all images in time, with one more reservation. */
export function transfersFitInTime(state: PlanState, extra: LeaseRecord, now: number): boolean {
  const first = latestTransferStarts(state, extra)[0];
  const busyUntil = Math.max(state.transfer?.until ?? now, ...state.hosts.map((host) => host.networkBusyUntil));
  return first === undefined || first.at >= Math.max(now, busyUntil);
}
