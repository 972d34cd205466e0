import type { DomainReport, DomainStatus } from '../../../contracts/domain.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import type { VmId } from '../../../model/ids.ts';
import type { DomainCondition, PausedBy } from '../../../model/vm.ts';
import { observeEnd } from '../vm/domain-end.ts';
import { domainName } from '../vm/domain-names.ts';
import { observedPauses } from './observed-pauses.ts';
import { isAnswering } from './silent-guests.ts';

/** What the domains of these VMs do now. A VM without a record, or whose domain is between two states, is left out. */
export async function observeDomains(ports: HostPorts, vmIds: VmId[]): Promise<DomainReport[]> {
  const reports = await Promise.all(
    vmIds.map(async (vmId) => {
      const condition = await observeDomain(ports, vmId);
      if (condition?.kind === 'paused') observedPauses(ports).add(vmId);
      return condition === null ? null : { vmId, condition };
    }),
  );
  return reports.filter((report) => report !== null);
}

async function observeDomain(ports: HostPorts, vmId: VmId): Promise<DomainCondition | null> {
  const { condition } = await observeWithoutEnd(ports, vmId);
  if (condition !== null && condition !== 'gone' && condition.kind === 'running')
    return { kind: 'running', answers: await isAnswering(ports, vmId) };
  return condition === 'gone' ? observeEnd(ports, vmId) : condition;
}

type ConditionWithoutEnd = Exclude<DomainCondition, { kind: 'gone' }> | 'gone' | null;

/** The same, without the reason of an end, which is in a file. `unasked`: it runs, though it was paused, and not by Berth's doing. */
export async function observeWithoutEnd(
  { hypervisor, store }: HostPorts,
  vmId: VmId,
): Promise<{ condition: ConditionWithoutEnd; unasked: boolean }> {
  // The domain first: a record that was written after it explains what was seen of it.
  const status = await hypervisor.status(domainName(vmId));
  const record = await store.read(vmId);
  const condition = record === null ? null : conditionOf(record, status);
  const wasPaused = record !== null && (record.pausedSinceMs !== null || record.arrivedPaused);
  return { condition, unasked: status?.state === 'running' && wasPaused };
}

/** Pauses that last. All others are parts of a save, a migration, a start or an end, which follow by themselves. */
const lastingPauses: Readonly<Record<string, PausedBy>> = { user: 'operator', 'I/O error': 'ioError', watchdog: 'operator' };

/**
 * What a domain's state means, beside what Berth has recorded for it. null: an activity is at work on it, or it changes by
 * itself in a moment.
 */
function conditionOf(record: VmRecord, status: DomainStatus | null): ConditionWithoutEnd {
  const isExpectedToRun = record.ready !== null && !record.removing && !record.flushed && record.suspended === null;
  if (!isExpectedToRun) return null;
  switch (status?.state) {
    case undefined:
    case 'shutoff':
      return 'gone';
    case 'running':
      return { kind: 'running' };
    case 'pmsuspended':
      return { kind: 'paused', by: 'guest' };
    case 'paused': {
      const by = lastingPauses[status.reason];
      if (by === undefined) return null;
      return { kind: 'paused', by: by === 'operator' && record.pausedSinceMs !== null ? 'owner' : by };
    }
    case 'shutdown':
    case 'crashed':
      return null;
  }
}
