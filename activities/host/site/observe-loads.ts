import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';
import type { VmLoad } from '../../../model/vm.ts';
import { domainName } from '../vm/domain-names.ts';

/** In parallel: each is sampled for a second. VMs that are gone or don't run are left out. */
export async function observeLoads({ migrator }: HostPorts, vmIds: VmId[]): Promise<{ vmId: VmId; load: VmLoad }[]> {
  const measured = await Promise.all(vmIds.map(async (vmId) => ({ vmId, load: await migrator.measureLoad(domainName(vmId)) })));
  return measured.flatMap(({ vmId, load }) => (load === null ? [] : [{ vmId, load }]));
}
