import { clockToleranceMs } from '../../model/host.ts';
import type { HostId } from '../../model/ids.ts';
import type { LedgerDeps } from '../transaction.ts';

/**
 * By how much a clock is ahead of the ledger's, at least: it was read between the ledger's times `requestedMs` and `nowMs`. A
 * slow answer makes that 0, and never accuses a right clock.
 */
export function certainOffsetMs(clockMs: number, requestedMs: number, nowMs: number): number {
  if (clockMs > nowMs) return clockMs - nowMs;
  return clockMs < requestedMs ? clockMs - requestedMs : 0;
}

/** A host whose clock is off by more than two seconds is said so, and gets no new work until it is right again. */
export async function recordHostClock(deps: LedgerDeps, id: HostId, clockMs: number, askedAt: string): Promise<void> {
  const offsetMs = Math.round(certainOffsetMs(clockMs, Date.parse(askedAt), deps.clock()));
  const bounded = Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, offsetMs));
  const clockOff = Math.abs(offsetMs) > clockToleranceMs;
  await deps.ledger.host.updateMany({ where: { id }, data: { clockOffsetMs: bounded, clockOff } });
}
