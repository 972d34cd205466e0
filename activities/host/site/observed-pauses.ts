import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';

/** By a host's ports, which its activities and its watch of domains have in common. */
const pauses = new WeakMap<HostPorts, Set<VmId>>();

/**
 * VMs that the site was answered are paused. It may have asked before the watch of this host saw the pause, which would not
 * report its end then: a pause of a moment is no news to it.
 */
export function observedPauses(ports: HostPorts): Set<VmId> {
  const found = pauses.get(ports) ?? new Set();
  pauses.set(ports, found);
  return found;
}
