import type { HostPorts, VmRecord, VmStore } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { domainName, vmOfDomain } from './names.ts';

/** Ends the domain, which nobody starts again. */
export async function removeDomain(ports: HostPorts, vmId: VmId, generation: number, record: VmRecord | null): Promise<void> {
  const { hypervisor, store } = ports;
  const name = domainName(vmId);
  if (record !== null) await onItsWayOut(store, record, generation);
  if ((await hypervisor.status(name)) === null) return;
  if (record === null) await refuseStranger(ports, name);
  await hypervisor.destroy(name);
  const left = await hypervisor.status(name);
  if (left !== null)
    throw new BerthError('host-busy', `ending ${name}: the hypervisor still says ${left.state} (${left.reason})`);
}

/** The record says first that nothing of this generation is made any more. */
export async function onItsWayOut(store: VmStore, record: VmRecord, generation: number): Promise<void> {
  const leaving = { ...record, generation, removing: true };
  if (record.generation !== generation) await store.write(leaving);
  else if (!record.removing) await store.note(leaving);
}

/** Where nothing is recorded of a VM, its name alone doesn't make a domain ours. */
async function refuseStranger({ hypervisor }: HostPorts, name: string): Promise<void> {
  const found = (await hypervisor.list()).find((domain) => domain.name === name);
  if (found !== undefined && vmOfDomain(found.name, found.uuid) === null)
    throw new BerthError('not-ours', `ending ${name}: a domain of this name has the UUID ${found.uuid}`);
}
