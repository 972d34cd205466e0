import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord, VmStore } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName, vmIdOfDomain } from './domain-names.ts';

/** Ends the domain, which nobody starts again. */
export async function removeDomain(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store } = ports;
  const name = domainName(vmId);
  if (record !== null) await markRemoving(store, record, generation);
  if ((await hypervisor.status(name)) === null) return;
  if (record === null) await refuseForeignDomain(ports, name);
  await hypervisor.destroy(name);
  const remaining = await hypervisor.status(name);
  if (remaining !== null)
    throw new BerthError('host-busy', `ending ${name}: the hypervisor still says ${remaining.state} (${remaining.reason})`);
}

/** The record says first that nothing of this generation is made any more. */
export async function markRemoving(store: VmStore, record: VmRecord, generation: number): Promise<void> {
  const marked = { ...record, generation, removing: true };
  if (record.generation !== generation) await store.writeDurably(marked);
  else if (!record.removing) await store.writeNonDurable(marked);
}

/** Where nothing is recorded of a VM, its name alone doesn't make a domain ours. */
async function refuseForeignDomain({ hypervisor }: HostPorts, name: string): Promise<void> {
  const found = (await hypervisor.list()).find((domain) => domain.name === name);
  if (found !== undefined && vmIdOfDomain(found.name, found.uuid) === null)
    throw new BerthError('not-ours', `ending ${name}: a domain of this name has the UUID ${found.uuid}`);
}
