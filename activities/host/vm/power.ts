import type { DomainStatus } from '../../../contracts/domain.ts';
import type { ResumedGuest } from '../../../contracts/host.ts';
import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { domainEndedError } from './domain-end.ts';
import { domainName } from './domain-names.ts';
import { describeDomain } from './domain-state.ts';
import { applyIdentity, refreshIdentity } from './guest-identity.ts';

/**
 * Stops the guest's processors. The record is written first: a command's time limit excludes the pause from then on. A guest
 * that has suspended itself to memory stands still already.
 */
export async function pauseVm(ports: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const { hypervisor, store, clock } = ports;
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw await domainEndedError(ports, vm.id, 'pausing');
  if (record.pausedSinceMs === null) await store.writeDurably({ ...record, pausedSinceMs: clock.nowMs() });
  if (found.state === 'running') await hypervisor.pauseCpus(name);
  else if (!standsStill(found)) throw new BerthError('host-busy', `pausing ${name}: ${describeDomain(found)}`);
}

/** Resumes a paused guest, and sets its clock. */
export async function resumeVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<ResumedGuest> {
  await resumeCpusAndRecord(ports, vm, record);
  return refreshIdentity(ports, vm, signal);
}

export const standsStill = ({ state }: DomainStatus): boolean => state === 'paused' || state === 'pmsuspended';

/** Resumes the guest's processors and adds the pause to `idleMs`. */
export async function resumeCpusAndRecord(ports: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  const { hypervisor, store, clock } = ports;
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  if (found === null) throw await domainEndedError(ports, vm.id, 'resuming');
  if (standsStill(found)) await hypervisor.resumeCpus(name);
  const { pausedSinceMs, arrivedPaused } = record;
  if (pausedSinceMs === null && !arrivedPaused) return;
  const idleMs = record.idleMs + (pausedSinceMs === null ? 0 : Math.max(0, clock.nowMs() - pausedSinceMs));
  await store.writeDurably({ ...record, pausedSinceMs: null, arrivedPaused: false, idleMs });
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
  if (found === null) throw await domainEndedError(ports, vm.id, 'rebooting');
  if (vm.onReboot !== 'restart')
    throw new BerthError('conflict', `rebooting ${name}: a guest that runs one command ends with its machine`);
  if (found.state !== 'running' && !standsStill(found))
    throw new BerthError('conflict', `rebooting ${name}: ${describeDomain(found)}`);
  // One that stands still cannot answer, and may have been paused for a reason that a reset ends.
  const bootIdBefore = standsStill(found) ? null : await readBootId(ports, name);
  await store.writeDurably({ ...record, ready: null, pausedSinceMs: null, arrivedPaused: false });
  const startedMs = clock.nowMs();
  if (bootIdBefore !== null && (await requestReboot(ports, name)))
    await pollUntil(clock, { pollMs, deadlineMs: rebootDeadlineMs, signal }, async () =>
      (await hasRebooted(ports, name, bootIdBefore)) ? true : null,
    );
  if (bootIdBefore === null || !(await hasRebooted(ports, name, bootIdBefore))) await hypervisor.reset(name);
  if (standsStill(found)) await hypervisor.resumeCpus(name);
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
