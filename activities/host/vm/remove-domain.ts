import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord, VmStore } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName, vmIdOfDomain } from './domain-names.ts';
import { destroyDomain } from './domain-state.ts';

/** Ends the domain; from then on the record refuses to start it again. */
export async function removeDomain(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store } = ports;
  const name = domainName(vmId);
  if (record !== null) await markRemoving(store, record, generation);
  if ((await hypervisor.status(name)) === null) return;
  if (record === null) await refuseForeignDomain(ports, name);
  await destroyDomain(ports, name, 'ending');
}

/** Marks the record first: nothing of this generation may be created any more. */
export async function markRemoving(store: VmStore, record: VmRecord, generation: number): Promise<void> {
  const marked = { ...record, generation, removing: true };
  if (record.generation !== generation) await store.writeDurably(marked);
  else if (!record.removing) await store.writeNonDurable(marked);
}

/** Without a record of the VM, the name alone doesn't make a domain ours: the UUID has to match. */
async function refuseForeignDomain({ hypervisor }: HostPorts, name: string): Promise<void> {
  const found = (await hypervisor.list()).find((domain) => domain.name === name);
  if (found !== undefined && vmIdOfDomain(found.name, found.uuid) === null)
    throw new BerthError('not-ours', `ending ${name}: a domain of this name has the UUID ${found.uuid}`);
}
