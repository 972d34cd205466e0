import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { type DomainCondition, type EndCause, endings } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';

type End = Extract<DomainCondition, { kind: 'gone' }>;

const causes = { poweredOff: 'poweredOff', crashed: 'crashed', destroyed: 'ended' } as const satisfies Record<string, EndCause>;

/** Of a VM without a domain: why and when it ended. null: it migrated, or its memory was saved. */
export async function observeEnd({ hypervisor, probe, clock }: HostPorts, vmId: VmId): Promise<End | null> {
  const gone = (cause: EndCause, endedMs: number | null): End => ({
    kind: 'gone',
    cause,
    agoMs: endedMs === null ? null : Math.max(0, Math.round(clock.nowMs() - endedMs)),
  });
  const end = await hypervisor.lastEnd(domainName(vmId));
  if (end === null) return gone('ended', null);
  if (end.how === 'left') return null;
  if (end.how !== 'unknown') return gone(causes[end.how], end.endedMs);
  // Nothing of a hypervisor's processes outlives its machine, whatever its log was last told.
  const bootedMs = await probe.bootedMs();
  return end.startedMs !== null && end.startedMs < bootedMs ? gone('hostRestarted', bootedMs) : gone('crashed', null);
}

/** The error of an act that needs a domain which has ended without Berth. `endedAgoMs` goes with it. */
export async function domainEndedError(ports: HostPorts, vmId: VmId, act: string): Promise<BerthError> {
  const end = await observeEnd(ports, vmId);
  if (end === null) return new BerthError('vm-lost', `${act} ${vmId}: there is neither a domain nor its whole memory`);
  const { code, says } = endings[end.cause];
  return new BerthError(code, `${act} ${vmId}: there is no domain. ${says}`, { extra: { endedAgoMs: end.agoMs } });
}
