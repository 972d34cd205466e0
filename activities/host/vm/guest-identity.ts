import type { GuestIdentity } from '../../../drivers/ports/guest.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { Boot, VmSpec } from '../../../model/vm.ts';
import { domainName, machineId } from './domain-names.ts';

/** A cold boot under TCG takes 3 to 11 s; twelve at once on two cores, ten times that. */
export const bootDeadlineMs = 180_000;
const pingPollMs = 10;

/**
 * Waits for the guest and gives it everything that makes it itself, its clock included: after a boot, and
 * after every time that it stood still. Repeatable.
 * @param firstBootKind how it came to be, where it has no identity of its own yet
 */
export async function applyIdentity(
  ports: HostPorts,
  vm: VmSpec,
  signal: AbortSignal,
  firstBootKind: Boot['kind'] | null = null,
): Promise<void> {
  const { guest, clock } = ports;
  const name = domainName(vm.id);
  // One from a template has a process for this alone, which waits already, and answers sooner than the agent would.
  if (firstBootKind !== 'warm') await awaitAgent(ports, name, bootDeadlineMs, signal);
  await guest.applyIdentity(name, { ...guestIdentity(vm, clock.nowMs()), firstBootKind });
}

/** What makes a guest this VM, at this moment; of one that has been made it already. */
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
  const untilMs = clock.nowMs() + deadlineMs;
  for (let polls = 0; !(await guest.ping(name)); polls += 1) {
    signal.throwIfAborted();
    // Asked now and then only: while the guest boots, each question costs time that it needs.
    if (polls % 50 === 49 && (await hypervisor.status(name)) === null)
      throw new BerthError('boot-failed', `waiting for the agent of ${name}: the domain ended; its console.log says why`);
    if (clock.nowMs() > untilMs)
      throw new BerthError(
        'boot-failed',
        `waiting for the agent of ${name}: no answer in ${deadlineMs / 1000} s; see console.log`,
      );
    await clock.sleep(pingPollMs, signal);
  }
}
