import type { ResumedGuest } from '../../../contracts/host.ts';
import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { GuestIdentity } from '../../../drivers/ports/guest.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { Boot, VmSpec } from '../../../model/vm.ts';
import { domainEndedError } from './domain-end.ts';
import { domainName, machineId } from './domain-names.ts';
import { describeDomain } from './domain-state.ts';

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

/** A guest that has run before answers in a second, on a busy machine in some. */
const resumedDeadlineMs = 60_000;

/**
 * The same for a guest that runs again. It runs on also where its own system refuses, for example because its root file
 * system is full: then its owner is told. A domain that has ended meanwhile is no such refusal.
 */
export async function refreshIdentity(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<ResumedGuest> {
  const name = domainName(vm.id);
  try {
    await awaitAgent(ports, name, resumedDeadlineMs, signal);
    await ports.guest.applyIdentity(name, guestIdentity(vm, ports.clock.nowMs()));
    return { problem: null };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof BerthError)) throw error;
    const status = await ports.hypervisor.status(name);
    if (status === null) throw await domainEndedError(ports, vm.id, 'resuming');
    if (status.state === 'paused')
      throw new BerthError('conflict', `resuming ${name}: it was paused again; ${describeDomain(status)}`);
    return {
      problem: {
        code: error.code,
        message: `${vm.id} runs, but its guest was not told the time and its neighbours: ${error.message}`,
      },
    };
  }
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

export async function awaitAgent(ports: HostPorts, name: string, deadlineMs: number, signal: AbortSignal): Promise<void> {
  const { guest, hypervisor, clock } = ports;
  let polls = 0;
  const answered = await pollUntil(clock, { pollMs: pingPollMs, deadlineMs, signal }, async () => {
    if (await guest.ping(name)) return true;
    polls += 1;
    // At every 50th poll only: each call takes processor time from the booting guest.
    if (polls % 50 === 0 && (await hypervisor.status(name)) === null)
      throw new BerthError('boot-failed', `waiting for the agent of ${name}: the domain ended; its console.log says why`, {
        extra: { endedAgoMs: null },
      });
    return null;
  });
  if (answered === null)
    throw new BerthError('boot-failed', `waiting for the agent of ${name}: no answer in ${deadlineMs / 1000} s; see console.log`);
}
