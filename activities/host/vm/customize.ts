import type { CustomizeVm } from '../../../contracts/host.ts';
import { newHostKey } from '../../../drivers/guest/host-key.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { stagedFiles } from '../../../model/vm-request.ts';
import { domainName } from './domain-names.ts';
import { awaitAgent, bootDeadlineMs, guestIdentity } from './guest-identity.ts';

/**
 * Sets up a running guest as requested, with a host key of its own. An attempt after a kill may give it another key; the
 * returned one is in force.
 */
export async function customizeVm(ports: HostPorts, request: CustomizeVm, signal: AbortSignal): Promise<{ hostKey: string }> {
  const { guest, clock } = ports;
  const { vm } = request;
  // A command of an attempt before may have rebooted the guest.
  await awaitAgent(ports, domainName(vm.id), bootDeadlineMs, signal);
  const hostKey = newHostKey(`root@${vm.name}`);
  await guest.setUp(domainName(vm.id), guestIdentity(vm, clock.nowMs()), {
    hostKey,
    user: request.user,
    files: request.files.map(({ path, mode }, index) => ({ from: `${stagedFiles}/${index}`, path, mode })),
    firstBoot: request.firstBoot,
    swapMiB: request.swapMiB,
  });
  return { hostKey: hostKey.public.trim() };
}
