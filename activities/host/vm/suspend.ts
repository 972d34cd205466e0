import type { DomainStatus } from '../../../contracts/domain.ts';
import type { RestoreVm, ResumedGuest } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainConfig } from './domain-config.ts';
import { domainEndedError } from './domain-end.ts';
import { domainName } from './domain-names.ts';
import { refreshIdentity } from './guest-identity.ts';
import { resumeCpusAndRecord, standsStill } from './power.ts';

const savingPollMs = 100;

/** Aborts runCommand for a VM that is being suspended. */
export const vmSuspendedError = (vmId: VmId): BerthError =>
  new BerthError('vm-suspended', `following the command in ${vmId}: it is suspended; ask the ledger where it is restored`);

/**
 * Suspends a VM. A kill at any line leaves a VM that runs, or a file with all of its memory and no domain: `virsh save`
 * marks the file as complete before it ends the domain. An attempt that finds an active save waits for it.
 */
export async function suspendVm(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<{ bytes: number }> {
  const { hypervisor, store, clock } = ports;
  const name = domainName(vm.id);
  if (record.suspended?.complete === true) return memorySize(ports, vm.id);
  let current = record;
  let found = await awaitSave(ports, name, signal);
  // One that stands still runs first: a domain that is paused beside a record that says suspended is taken for a copy that
  // executed nothing, and is ended. The memory of one that sleeps can't be saved at all.
  if (found !== null && standsStill(found)) {
    await resumeCpusAndRecord(ports, vm, record);
    current = (await store.read(vm.id)) ?? record;
    found = await hypervisor.status(name);
  }
  if (found === null) return commitSavedMemory(ports, vm.id, current);
  if (found.state !== 'running' || current.ready === null || current.flushed)
    throw new BerthError(
      'conflict',
      `suspending ${name}: it is ${found.state} (${found.reason})${record.flushed ? ' and its disk is flushed' : ''}; only a running VM can be suspended`,
    );
  // Memory of an earlier suspension is outdated: the guest has run since.
  await store.removeMemory(vm.id);
  const marked: VmRecord = { ...current, suspended: { sinceMs: clock.nowMs(), complete: false } };
  await store.writeDurably(marked);
  if (record.keepsOutputs) await syncDataDisk(ports, name);
  try {
    await hypervisor.save(name, store.paths(vm.id).memoryPartial);
  } catch (error) {
    // A refusal, not a missing answer: the hypervisor has resumed the guest.
    if (!(error instanceof BerthError) || error.code === 'host-busy') throw error;
    if ((await awaitSave(ports, name, signal)) === null) return commitSavedMemory(ports, vm.id, marked);
    await resumeCpusAndRecord(ports, vm, await clearSuspended(ports, marked));
    await store.removeMemory(vm.id);
    throw error;
  }
  return commitSavedMemory(ports, vm.id, marked);
}

/**
 * So that the disk of a VM that is never restored has what its command had written. A guest that can't, or takes long, is
 * suspended all the same: restored, it loses nothing.
 */
async function syncDataDisk({ guest }: HostPorts, name: string): Promise<void> {
  try {
    await guest.syncDataDisk(name);
  } catch (error) {
    if (!(error instanceof BerthError)) throw error;
  }
}

/** The domain's status once no save of it is active; null when it is gone. */
async function awaitSave({ hypervisor, migrator, clock }: HostPorts, name: string, signal: AbortSignal) {
  for (;;) {
    const found = await hypervisor.status(name);
    if (!isSaving(found)) return found;
    const job = await migrator.observeJob(name);
    if (job?.active === false && isSaving(await hypervisor.status(name))) {
      // libvirtd was killed during the save, and doesn't continue it.
      await hypervisor.resumeCpus(name);
      return hypervisor.status(name);
    }
    await clock.sleep(savingPollMs, signal);
  }
}

/**
 * Whether a VM that was suspended is so still, for what reads its disk in place of its guest: then nothing writes to it any more.
 * A domain that doesn't run beside a record that says suspended has executed nothing, and is ended.
 */
export async function staysSuspended(ports: HostPorts, record: VmRecord, signal: AbortSignal): Promise<boolean> {
  if (record.suspended === null) return false;
  const name = domainName(record.vmId);
  const found = await awaitSave(ports, name, signal);
  if (found?.state === 'running') return false;
  if (found !== null) await ports.hypervisor.destroy(name);
  return true;
}

const isSaving = (status: DomainStatus | null): boolean => status?.state === 'paused' && /sav/.test(status.reason);

/** The domain is gone: its whole memory is in the file, or the VM is lost. */
async function commitSavedMemory(ports: HostPorts, vmId: VmId, record: VmRecord): Promise<{ bytes: number }> {
  const { hypervisor, store } = ports;
  const { memory, memoryPartial } = store.paths(vmId);
  const complete = (await hypervisor.isSaved(memoryPartial)) || (await hypervisor.isSaved(memory));
  if (record.suspended === null || !complete) throw await domainEndedError(ports, vmId, 'suspending');
  await store.commitMemory(vmId);
  await store.writeDurably({ ...record, suspended: { ...record.suspended, complete: true } });
  return memorySize(ports, vmId);
}

async function memorySize({ store }: HostPorts, vmId: VmId): Promise<{ bytes: number }> {
  return { bytes: await store.memoryBytes(vmId) };
}

/**
 * Writes the record of a guest that is about to be resumed, or was never stopped: its saved memory must not be used from
 * here on. Until it is resumed it counts as paused, since it was suspended.
 */
async function clearSuspended({ store }: HostPorts, record: VmRecord): Promise<VmRecord> {
  const resumed: VmRecord = {
    ...record,
    suspended: null,
    pausedSinceMs: record.pausedSinceMs ?? record.suspended?.sinceMs ?? null,
  };
  await store.writeDurably(resumed);
  return resumed;
}

/**
 * Restores a suspended VM, or resumes one whose suspension failed. The guest is restored paused, then the record's
 * `suspended` is cleared, and only then is the guest resumed: so no guest is started twice from one memory after it has
 * written to its disk.
 */
export async function restoreVm(
  ports: HostPorts,
  request: RestoreVm,
  record: VmRecord,
  signal: AbortSignal,
): Promise<ResumedGuest> {
  const { hypervisor, store } = ports;
  const { vm } = request;
  const name = domainName(vm.id);
  let current = record;
  if (record.suspended !== null) {
    const found = await awaitSave(ports, name, signal);
    // A domain that doesn't run beside a record that says suspended is of an attempt that was killed. It executed nothing.
    if (found !== null && found.state !== 'running') await hypervisor.destroy(name);
    if (found?.state !== 'running') {
      if (!record.suspended.complete) await commitSavedMemory(ports, vm.id, record);
      await restoreFromMemory(ports, request);
    }
    current = await clearSuspended(ports, record);
  }
  await store.removeMemory(vm.id);
  await resumeCpusAndRecord(ports, vm, current);
  return refreshIdentity(ports, vm, signal);
}

async function restoreFromMemory(ports: HostPorts, { vm, diskHostAddress }: RestoreVm): Promise<void> {
  const { hypervisor, store } = ports;
  const { memory } = store.paths(vm.id);
  if (!(await hypervisor.isSaved(memory)))
    throw new BerthError('vm-lost', `restoring ${vm.id}: ${memory} does not hold its memory`);
  await hypervisor.restore(memory, await domainConfig(ports, vm, diskHostAddress));
}
