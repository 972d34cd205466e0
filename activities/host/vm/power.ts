import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { domainName } from './domain-names.ts';
import { describeDomain } from './domain-state.ts';
import { applyIdentity } from './guest-identity.ts';

/** Stops the guest's processors. The record is written first: a command's time limit excludes the pause from then on. */
export async function pauseVm({ hypervisor, store, clock }: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `pausing ${name}: there is no such domain`);
  if (record.pausedSinceMs === null) await store.writeDurably({ ...record, pausedSinceMs: clock.nowMs() });
  if (found.state === 'running') await hypervisor.pauseCpus(name);
  else if (found.state !== 'paused') throw new BerthError('host-busy', `pausing ${name}: ${describeDomain(found)}`);
}

/** Resumes a paused guest, and sets its clock. */
export async function resumeVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<void> {
  await resumeCpusAndRecord(ports, vm, record);
  await applyIdentity(ports, vm, signal);
}

/** Resumes the guest's processors and adds the pause to `idleMs`. */
export async function resumeCpusAndRecord({ hypervisor, store, clock }: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `resuming ${name}: there is neither a domain nor its memory`);
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
 * Reboots a guest: through its agent, so that it writes its caches to the disk; by a reset where the agent doesn't answer or
 * the guest takes too long. An attempt after a kill may reboot it once more.
 */
export async function rebootVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<void> {
  const { hypervisor, guest, store, clock } = ports;
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `rebooting ${name}: there is no such domain`);
  if (vm.onReboot !== 'restart')
    throw new BerthError('conflict', `rebooting ${name}: a guest that runs one command ends with its machine`);
  if (found.state !== 'running') throw new BerthError('conflict', `rebooting ${name}: ${describeDomain(found)}`);
  const bootIdBefore = await readBootId(ports, name);
  await store.writeDurably({ ...record, ready: null });
  const startedMs = clock.nowMs();
  if (bootIdBefore !== null && (await requestReboot(ports, name)))
    await pollUntil(clock, { pollMs, deadlineMs: rebootDeadlineMs, signal }, async () =>
      (await hasRebooted(ports, name, bootIdBefore)) ? true : null,
    );
  if (bootIdBefore === null || !(await hasRebooted(ports, name, bootIdBefore))) await hypervisor.reset(name);
  await applyIdentity(ports, vm, signal);
  if (bootIdBefore !== null && (await guest.bootId(name)) === bootIdBefore)
    throw new BerthError('host-busy', `rebooting ${name}: its agent answers, and the guest has not rebooted`);
  const nowMs = clock.nowMs();
  await store.writeDurably({ ...record, ready: { createMs: 0, bootMs: nowMs - startedMs } });
}

async function readBootId({ guest }: HostPorts, name: string): Promise<string | null> {
  return nullIfUnavailable(() => guest.bootId(name));
}

async function requestReboot({ guest }: HostPorts, name: string): Promise<boolean> {
  return (await nullIfUnavailable(() => guest.reboot(name).then(() => true))) ?? false;
}

/** Whether the guest answers from a later boot. While it boots it doesn't answer. */
async function hasRebooted(ports: HostPorts, name: string, before: string): Promise<boolean> {
  const now = await readBootId(ports, name);
  return now !== null && now !== before;
}
