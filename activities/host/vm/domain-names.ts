import { isId, uuidOf, type VmId } from '../../../model/ids.ts';

/** A VM's domain has the VM's id as its name, and the UUID inside that id as its UUID. */
export const domainName = (vmId: VmId): string => vmId;

/** The VM of a domain, or null for a domain that isn't ours: both its name and its UUID have to match. */
export function vmIdOfDomain(name: string, uuid: string): VmId | null {
  return isId('vm', name) && uuidOf(name) === uuid ? name : null;
}

/** Fits the kernel's 15 characters: `bt` and the random tail of the UUID. */
export const tapName = (vmId: VmId): string => `bt${uuidOf(vmId).slice(-12)}`;

export const machineId = (vmId: VmId): string => uuidOf(vmId).replaceAll('-', '');
