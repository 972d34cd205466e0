import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';
import type { VmLoad } from '../../../model/vm.ts';
import { domainName } from '../vm/domain-names.ts';

/** All at once: each is looked at for a second. One that is gone or doesn't run has nothing to be said of. */
export async function observeLoads({ migrator }: HostPorts, vmIds: VmId[]): Promise<{ vmId: VmId; load: VmLoad }[]> {
  const measured = await Promise.all(vmIds.map(async (vmId) => ({ vmId, load: await migrator.measureLoad(domainName(vmId)) })));
  return measured.flatMap(({ vmId, load }) => (load === null ? [] : [{ vmId, load }]));
}
