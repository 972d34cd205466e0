import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { GuestIdentity } from '../../../drivers/ports/guest.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { Boot, VmSpec } from '../../../model/vm.ts';
import { domainName, machineId } from './domain-names.ts';

/** A cold boot under TCG takes 3 to 11 s; twelve at once on two cores, ten times that. */
export const bootDeadlineMs = 180_000;
const pingPollMs = 10;

/**
 * Waits for the guest and applies its identity, its clock included: after a boot, and after each time that its processors
 * were stopped. Repeatable.
 * @param firstBootKind how it was started, where it has no identity of its own yet
 */
export async function applyIdentity(
  ports: HostPorts,
  vm: VmSpec,
  signal: AbortSignal,
  firstBootKind: Boot['kind'] | null = null,
): Promise<void> {
  const { guest, clock } = ports;
  const name = domainName(vm.id);
  // A guest from a template has a process that waits for the identity, and answers sooner than the agent.
  if (firstBootKind !== 'warm') await awaitAgent(ports, name, bootDeadlineMs, signal);
  await guest.applyIdentity(name, { ...guestIdentity(vm, clock.nowMs()), firstBootKind });
}

/** A VM's identity at this moment, for a guest that has had its first boot. */
export function guestIdentity(vm: VmSpec, timeMs: number): GuestIdentity {
  return {
    firstBootKind: null,
    mac: vm.mac,
    hostname: vm.name,
    machineId: machineId(vm.id),
    address: vm.address,
    cidr: vm.network.cidr,
    gateway: vm.network.gateway,
    neighbours: vm.neighbours,
    timeMs,
  };
}

export async function awaitAgent(
  { guest, hypervisor, clock }: HostPorts,
  name: string,
  deadlineMs: number,
  signal: AbortSignal,
): Promise<void> {
  let polls = 0;
  const answered = await pollUntil(clock, { pollMs: pingPollMs, deadlineMs, signal }, async () => {
    if (await guest.ping(name)) return true;
    polls += 1;
    // At every 50th poll only: each call takes processor time from the booting guest.
    if (polls % 50 === 0 && (await hypervisor.status(name)) === null)
      throw new BerthError('boot-failed', `waiting for the agent of ${name}: the domain ended; its console.log says why`);
    return null;
  });
  if (answered === null)
    throw new BerthError('boot-failed', `waiting for the agent of ${name}: no answer in ${deadlineMs / 1000} s; see console.log`);
}
