import type { DomainStatus } from '../../../contracts/domain.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError, type ErrorCode } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from './domain-names.ts';

/** For messages: what a domain was found to be. */
export const describeDomain = ({ state, reason }: DomainStatus): string => `its domain is ${state} (${reason})`;

/** Refuses with `code` where a VM has a domain on this host. */
export async function requireNoDomain({ hypervisor }: HostPorts, vmId: VmId, code: ErrorCode, act: string): Promise<void> {
  const found = await hypervisor.status(domainName(vmId));
  if (found !== null) throw new BerthError(code, `${act} ${vmId}: ${describeDomain(found)} on this host`);
}

/** Ends a domain. Success only when the hypervisor says that it is gone. */
export async function destroyDomain({ hypervisor }: HostPorts, name: string, act: string): Promise<void> {
  await hypervisor.destroy(name);
  const remaining = await hypervisor.status(name);
  if (remaining !== null) throw new BerthError('host-busy', `${act} ${name}: after that ${describeDomain(remaining)} still`);
}
