import { Context } from '@temporalio/activity';
import type { HostActivities } from '../../contracts/host.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import type { VmId } from '../../model/ids.ts';
import { createCrashGuard } from './crash-guard.ts';
import { requireFreeDisk } from './free-disk.ts';
import { buildTemplate } from './image/build-template.ts';
import { ensureImage } from './image/ensure-image.ts';
import { importDisk, storeImage } from './image/store-image.ts';
import {
  observeColdCopy,
  offerCachedChunks,
  packColdCopy,
  removeColdLeftover,
  resolveRestore,
  unpackColdCopy,
} from './migration/cold-copy.ts';
import { migrateDisks, observeDiskMigration, resolveDiskMigration } from './migration/migrate-disks.ts';
import { migrateOut } from './migration/migrate-out.ts';
import { flushGuestDisks, removeDomainUnlessRunning, removeLeftover } from './migration/migration-cleanup.ts';
import type { AbortedMigrations } from './migration/migration-source.ts';
import { abortMigration, observeMigration, readPortableRecord } from './migration/migration-source.ts';
import { prepareIncoming, probeGuest, resumeDomain } from './migration/migration-target.ts';
import { observeRecovery } from './migration/observe-recovery.ts';
import { observeDomains } from './site/observe-domains.ts';
import { observeHost } from './site/observe-host.ts';
import { observeInventory } from './site/observe-inventory.ts';
import { observeLoads } from './site/observe-loads.ts';
import { runCommand } from './task/run-command.ts';
import { stageIn } from './task/stage-in.ts';
import { stageOut } from './task/stage-out.ts';
import { stopCommand } from './task/stop-command.ts';
import { customizeVm } from './vm/customize.ts';
import { ensureRunning } from './vm/ensure-running.ts';
import { openStream } from './vm/open-stream.ts';
import { pauseVm, rebootVm, resumeVm } from './vm/power.ts';
import { quarantineVm } from './vm/quarantine-vm.ts';
import { readConsole } from './vm/read-console.ts';
import { removeDisks } from './vm/remove-disks.ts';
import { removeDomain } from './vm/remove-domain.ts';
import { removeVm } from './vm/remove-vm.ts';
import { shutDownGuest } from './vm/shut-down-guest.ts';
import { restoreVm, suspendVm, vmSuspendedError } from './vm/suspend.ts';
import { createVmLock } from './vm-lock.ts';
import { refuseStale } from './vm-record.ts';

const activitySignal = (): AbortSignal => Context.current().cancellationSignal;

/**
 * The activities of one host, over its ports. A file has one phase's; here each takes the VM's lock. They need the context
 * of an activity; heartbeats and the mapping of errors are in `guard` (activities/failure.ts).
 */
export function createHostActivities(ports: HostPorts, crashed = false): HostActivities {
  const guarded = createCrashGuard(ports, crashed);
  const locks = createVmLock(ports.store);
  const aborted: AbortedMigrations = new Map();
  return {
    observeHost: () => observeHost(ports),
    reportLiveness: () => Context.current().cancelled,
    observeInventory: () => observeInventory(ports),
    observeDomains: (vmIds) => observeDomains(ports, vmIds),
    quarantineVm: (vmId) => quarantineVm(ports, vmId),
    ensureImage: (image, pinnedUntil) => ensureImage(ports, image, pinnedUntil ?? null, activitySignal()),
    removeImage: (id) => ports.imageCache.remove(id),
    stageIn: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record, signal) =>
        guarded.run(request.vm.id, 'stageIn', signal, () => stageIn(ports, request, record, signal)),
      ),
    ensureRunning: (vm, diskHostAddress) =>
      locks.lockForUpdate(vm, activitySignal(), (record, signal) =>
        ensureRunning(ports, { vm, diskHostAddress: diskHostAddress ?? null }, record, signal),
      ),
    buildTemplate: (vm) => locks.lockForUpdate(vm, activitySignal(), (_, signal) => buildTemplate(ports, vm, signal)),
    customizeVm: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (_, signal) => customizeVm(ports, request, signal)),
    readConsole: (vmId, generation, range) => fenced(ports, vmId, generation, () => readConsole(ports, vmId, range)),
    openStream: (vmId, generation, order) => fenced(ports, vmId, generation, () => openStream(ports, vmId, order)),
    runCommand: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record, signal) => runCommand(ports, request, record, signal)),
    stopCommand: (vmId, generation) => stopCommand(ports, vmId, generation),
    stageOut: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record, signal) =>
        guarded.run(request.vm.id, 'stageOut', signal, () => stageOut(ports, request, record, signal)),
      ),
    suspendVm: (vm) =>
      locks.lockForUpdate(
        vm,
        activitySignal(),
        (record, signal) => suspendVm(ports, vm, record, signal),
        vmSuspendedError(vm.id),
      ),
    restoreVm: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record, signal) => restoreVm(ports, request, record, signal)),
    pauseVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record) => pauseVm(ports, vm, record)),
    resumeVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record, signal) => resumeVm(ports, vm, record, signal)),
    rebootVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record, signal) => rebootVm(ports, vm, record, signal)),
    importDisk: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (_, signal) =>
        guarded.run(request.vm.id, 'importDisk', signal, () => importDisk(ports, request, signal)),
      ),
    shutDownGuest: (vm) =>
      locks.lockForUpdate(vm, activitySignal(), (record, signal) => shutDownGuest(ports, vm, record, signal)),
    storeImage: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record, signal) =>
        guarded.run(request.vm.id, 'storeImage', signal, () => storeImage(ports, request, record, signal)),
      ),
    removeDomain: (vmId, generation) =>
      locks.lockForRemoval(vmId, generation, (record) => removeDomain(ports, vmId, generation, record)),
    removeDisks: (vmId, generation) =>
      locks.lockForRemoval(vmId, generation, (record) => removeDisks(ports, vmId, generation, record)),
    removeVm: (vmId, generation) => locks.lockForRemoval(vmId, generation, (record) => removeVm(ports, vmId, generation, record)),
    observeLoads: (vmIds) => observeLoads(ports, vmIds),
    observeMigration: (vmId) => observeMigration(ports, vmId),
    readPortableRecord: (vmId, generation, commanded) => readPortableRecord(ports, vmId, generation, commanded),
    // Before the lock, which writes a record.
    prepareIncoming: async (request) => {
      await requireFreeDisk(ports, request.vm.id, 0);
      return locks.lockForUpdate(request.vm, activitySignal(), (record) => prepareIncoming(ports, request, record));
    },
    // Takes no lock: runCommand holds it, and follows the VM's command during the migration.
    migrateOut: (request) => migrateOut(ports, request, aborted, activitySignal()),
    abortMigration: (vmId, generation, targetGeneration) => abortMigration(ports, vmId, generation, targetGeneration, aborted),
    resumeDomain: (vmId, generation) => fenced(ports, vmId, generation, () => resumeDomain(ports, vmId)),
    probeGuest: (vmId, generation) => fenced(ports, vmId, generation, () => probeGuest(ports, vmId, activitySignal())),
    observeRecovery: (request) =>
      fenced(ports, request.vmId, request.generation, () => observeRecovery(ports, request, activitySignal())),
    removeDomainUnlessRunning: (vmId, generation) =>
      fenced(ports, vmId, generation, () => removeDomainUnlessRunning(ports, vmId)),
    removeLeftover: (vmId, generation, home) =>
      locks.lockForRemoval(vmId, generation, (record) => removeLeftover(ports, vmId, generation, home, record)),
    offerCachedChunks: async (vm) => {
      await requireFreeDisk(ports, vm.id, vm.memoryMiB);
      return offerCachedChunks(ports, vm.id);
    },
    packColdCopy: (request) => packColdCopy(ports, request),
    unpackColdCopy: (request) =>
      locks.lockForUpdate(request.vm, activitySignal(), (record) => unpackColdCopy(ports, request, record)),
    observeColdCopy: (vmId) => observeColdCopy(ports, vmId),
    resolveRestore: (vm) => locks.lockForUpdate(vm, activitySignal(), (record) => resolveRestore(ports, vm, record)),
    removeColdLeftover: (request) =>
      locks.lockForRemoval(request.vmId, request.generation, (record) => removeColdLeftover(ports, request, record)),
    // Nor do these: a VM's disks are migrated in the background.
    migrateDisks: (vm) => fenced(ports, vm.id, vm.generation, () => migrateDisks(ports, vm, activitySignal())),
    observeDiskMigration: (vmId) => observeDiskMigration(ports, vmId),
    resolveDiskMigration: (vm) => fenced(ports, vm.id, vm.generation, () => resolveDiskMigration(ports, vm)),
    flushGuestDisks: (vm) =>
      locks.lockForUpdate(vm, activitySignal(), (record, signal) => flushGuestDisks(ports, vm.id, record, signal)),
  };
}

/** For requests that may come while another activity holds the VM's lock: only the generation is checked. */
async function fenced<T>({ store }: HostPorts, vmId: VmId, generation: number, act: () => Promise<T>): Promise<T> {
  refuseStale(await store.read(vmId), vmId, generation);
  return act();
}
