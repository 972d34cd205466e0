import type { DrainId, Remaining } from '../../model/drain.ts';
import { drainEventTypes } from '../../model/events.ts';
import type { HostInventory } from '../../model/host.ts';
import type { VmId } from '../../model/ids.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, type LedgerDeps } from '../transaction.ts';
import { type DrainContext, type DrainRow, enterState, graceMs, hasBeenEmptied, lockDrain } from './drain-row.ts';
import { readHostVms } from './host-vms.ts';
import { readSuspendedInPlace } from './suspended-in-place.ts';

/**
 * Compares the host's inventory with the ledger, which has no VM there any more. Returns true at the drain's end, and
 * false where something is left, which the drain's row then says.
 */
export async function verifyHostEmpty(deps: LedgerDeps, id: DrainId, found: HostInventory): Promise<boolean> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const context = await lockDrain(deps, tx, id);
    const { drain } = context;
    if (hasBeenEmptied(drain)) return true;
    const { hostId: host, moveDisks, suspendInPlace } = drain;
    if ((await readHostVms(tx, { host, drain: id, moveDisks, suspendInPlace })).length > 0) return false;
    const remaining = findRemaining(found, drain, await readSuspendedInPlace(tx, [id]));
    if (remaining.length > 0) return recordRemaining(context, remaining);
    await enterState(context, drain.returnAfter === null ? 'empty' : 'held', drainEventTypes.emptied);
    return true;
  });
}

/** The host does not answer, so its inventory is unknown. */
export async function recordHostNotVerified(deps: LedgerDeps, id: DrainId, why: string): Promise<void> {
  await inTransaction(deps.ledger, async (tx) => {
    const context = await lockDrain(deps, tx, id);
    const { drain } = context;
    if (hasBeenEmptied(drain)) return;
    await recordRemaining(context, [{ what: drain.hostId, why: `its inventory could not be read: ${why}` }]);
  });
}

/** Well after the deadline the drain ends as incomplete; before, it goes on. Returns whether it ended. */
async function recordRemaining(context: DrainContext, remaining: Remaining[]): Promise<boolean> {
  const { tx, drain, nowMs } = context;
  const isOver = nowMs > drain.deadline.getTime() + graceMs;
  if (isOver) await enterState(context, 'incomplete', drainEventTypes.incomplete, remaining);
  else await tx.$executeRaw`UPDATE "Drain" SET remaining = ${JSON.stringify(remaining)}::jsonb WHERE id = ${drain.id}`;
  return isOver;
}

function findRemaining(
  { domains, disks }: HostInventory,
  { hostId, moveDisks }: DrainRow,
  inPlace: readonly { vm: VmId }[],
): Remaining[] {
  const running = domains.map(({ name, vmId, state }) => ({
    what: vmId ?? name,
    why: `the hypervisor of ${hostId} still has it, ${state}, and no VM of the ledger runs there`,
  }));
  const folders = disks.map(({ vmId }) => ({ what: vmId, why: `${hostId} still has a folder of it` }));
  const lost = inPlace.filter(({ vm }) => disks.every(({ vmId }) => vmId !== vm));
  const missing = lost.map(({ vm }) => ({ what: vm, why: `it is to lie there suspended, and ${hostId} has no folder of it` }));
  return [...running, ...(moveDisks ? folders : []), ...missing];
}
