import type { ForceEnd } from '../ledger/levers/force-end.ts';
import type { HostId } from '../model/ids.ts';
import type { ApiDeps } from './deps.ts';
import type { Caller } from './http/auth.ts';
import { bestEffort } from './http/best-effort.ts';

export const forceEndOf = ({ ownerId }: Caller, { reason }: { reason?: string | undefined }, nowMs: number): ForceEnd => ({
  by: ownerId,
  reason: reason ?? null,
  nowMs,
});

/** Logs a lever, and lets the hosts remove now what it has fenced there; else their next reconciliation does. */
export async function afterLever(
  { temporal, log }: ApiDeps,
  what: Record<string, string>,
  { keyId }: Caller,
  fenced: readonly HostId[],
): Promise<void> {
  log.warn({ ...what, keyId, fenced }, 'ended by an operator by force');
  for (const host of fenced) await bestEffort(log, { hostId: host }, () => temporal.notifyReconciliation(host));
  // Quotas and names are free again.
  await bestEffort(log, what, () => temporal.notifyHousekeeping());
}
