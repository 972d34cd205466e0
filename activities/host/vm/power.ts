import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';
import { applyIdentity } from './guest-identity.ts';

/** Stops the guest's processors. The record says so first: a command's time stands still from then on. */
export async function pauseVm({ hypervisor, store, clock }: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `pausing ${name}: there is no such domain`);
  if (record.pausedSinceMs === null) await store.writeDurably({ ...record, pausedSinceMs: clock.nowMs() });
  if (found.state === 'running') await hypervisor.pauseCpus(name);
  else if (found.state !== 'paused')
    throw new BerthError('host-busy', `pausing ${name}: its domain is ${found.state} (${found.reason})`);
}

/** Lets a paused guest go on, with the clock of today. */
export async function resumeVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<void> {
  await resumeCpusAndRecord(ports, vm, record);
  await applyIdentity(ports, vm, signal);
}

/** Starts the guest's processors and notes for how long they stood still. */
export async function resumeCpusAndRecord({ hypervisor, store, clock }: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `letting ${name} go on: there is neither a domain nor its memory`);
  if (found.state === 'paused') await hypervisor.resumeCpus(name);
  if (record.pausedSinceMs !== null)
    await store.writeDurably({
      ...record,
      pausedSinceMs: null,
      idleMs: record.idleMs + Math.max(0, clock.nowMs() - record.pausedSinceMs),
    });
}

/** How long a guest may take to shut down before it is reset. */
const rebootDeadlineMs = 30_000;
const pollMs = 50;

/**
 * Boots a guest again. Its agent is asked first, so that it can write what it has to its disk; where it doesn't answer, or
 * takes too long, the reset button is pressed. An attempt after a kill may boot it once more.
 */
export async function rebootVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<void> {
  const { hypervisor, guest, store, clock } = ports;
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `rebooting ${name}: there is no such domain`);
  if (vm.onReboot !== 'restart')
    throw new BerthError('conflict', `rebooting ${name}: a guest that runs one command ends with its machine`);
  if (found.state !== 'running')
    throw new BerthError('conflict', `rebooting ${name}: its domain is ${found.state} (${found.reason})`);
  const bootIdBefore = await readBootId(ports, name);
  await store.writeDurably({ ...record, ready: null });
  const startedMs = clock.nowMs();
  if (bootIdBefore !== null && (await requestReboot(ports, name))) {
    const untilMs = clock.nowMs() + rebootDeadlineMs;
    while (clock.nowMs() < untilMs && !(await hasRebooted(ports, name, bootIdBefore))) await clock.sleep(pollMs, signal);
  }
  if (bootIdBefore === null || !(await hasRebooted(ports, name, bootIdBefore))) await hypervisor.reset(name);
  await applyIdentity(ports, vm, signal);
  if (bootIdBefore !== null && (await guest.bootId(name)) === bootIdBefore)
    throw new BerthError('host-busy', `rebooting ${name}: it answers, and has not booted since`);
  const nowMs = clock.nowMs();
  await store.writeDurably({ ...record, ready: { createMs: 0, bootMs: nowMs - startedMs, sinceMs: startedMs } });
}

async function readBootId({ guest }: HostPorts, name: string): Promise<string | null> {
  return nullIfUnavailable(() => guest.bootId(name));
}

async function requestReboot({ guest }: HostPorts, name: string): Promise<boolean> {
  return (await nullIfUnavailable(() => guest.reboot(name).then(() => true))) ?? false;
}

/** Whether it answers from another boot. Silence is what a boot looks like. */
async function hasRebooted(ports: HostPorts, name: string, before: string): Promise<boolean> {
  const now = await readBootId(ports, name);
  return now !== null && now !== before;
}

/** null where the guest's agent doesn't answer or refuses. */
async function nullIfUnavailable<T>(ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'host-busy' || error.code === 'hypervisor')) return null;
    throw error;
  }
}
