import { Context } from '@temporalio/activity';
import type { HostActivities } from '../../contracts/host.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
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
import {
  type AbortedMigrations,
  abortMigration,
  flushGuestDisks,
  migrateOut,
  observeMigration,
  prepareIncoming,
  probeGuest,
  readPortableRecord,
  removeDomainUnlessRunning,
  removeLeftover,
  resumeDomain,
} from './migration/migrate-out.ts';
import { observeRecovery } from './migration/observe-recovery.ts';
import { observeHost } from './site/observe-host.ts';
import { observeInventory } from './site/observe-inventory.ts';
import { observeLoads } from './site/observe-loads.ts';
import { runCommand } from './task/run-command.ts';
import { stageIn } from './task/stage-in.ts';
import { stageOut } from './task/stage-out.ts';
import { stopCommand } from './task/stop-command.ts';
import { customizeVm } from './vm/customize.ts';
import { ensureDisks } from './vm/ensure-disks.ts';
import { ensureRunning } from './vm/ensure-running.ts';
import { pauseVm, rebootVm, resumeVm } from './vm/power.ts';
import { quarantineVm } from './vm/quarantine-vm.ts';
import { readConsole } from './vm/read-console.ts';
import { removeDisks } from './vm/remove-disks.ts';
import { removeDomain } from './vm/remove-domain.ts';
import { removeVm } from './vm/remove-vm.ts';
import { shutDownGuest } from './vm/shut-down-guest.ts';
import { restoreVm, suspendVm, vmSuspendedError } from './vm/suspend.ts';
import { createVmLock } from './vm-lock.ts';

const activitySignal = (): AbortSignal => Context.current().cancellationSignal;

/**
 * The durable steps of one host, over its ports. One file a phase; here each gets its turn. They need the context of
 * an activity; heartbeats and the form of errors are `guard`'s (activities/failure.ts).
 */
export function createHostActivities(ports: HostPorts): HostActivities {
  const locks = createVmLock(ports.store);
  const aborted: AbortedMigrations = new Map();
  return {
    observeHost: () => observeHost(ports),
    reportLiveness: () => Context.current().cancelled,
    observeInventory: () => observeInventory(ports),
    quarantineVm: (vmId) => quarantineVm(ports, vmId),
    ensureImage: (image, pinnedUntil) => ensureImage(ports, image, pinnedUntil ?? null, activitySignal()),
    removeImage: (id) => ports.imageCache.remove(id),
    stageIn: (order) =>
      locks.lockForUpdate(order.vm, activitySignal(), (record, signal) => stageIn(ports, order, record, signal)),
    ensureDisks: (vm) => locks.lockForUpdate(vm, activitySignal(), (_, signal) => ensureDisks(ports, vm, signal)),
    ensureRunning: (vm) =>
      locks.lockForUpdate(vm, activitySignal(), (record, signal) => ensureRunning(ports, vm, record, signal)),
    buildTemplate: (vm) => locks.lockForUpdate(vm, activitySignal(), (_, signal) => buildTemplate(ports, vm, signal)),
    customizeVm: (order) => locks.lockForUpdate(order.vm, activitySignal(), () => customizeVm(ports, order)),
    readConsole: (vmId, generation, range) => fenced(ports, vmId, generation, () => readConsole(ports, vmId, range)),
    runCommand: (order) =>
      locks.lockForUpdate(order.vm, activitySignal(), (record, signal) => runCommand(ports, order, record, signal)),
    stopCommand: (vmId, generation) => stopCommand(ports, vmId, generation),
    stageOut: (order) =>
      locks.lockForUpdate(order.vm, activitySignal(), (record, signal) => stageOut(ports, order, record, signal)),
    suspendVm: (vm) =>
      locks.lockForUpdate(
        vm,
        activitySignal(),
        (record, signal) => suspendVm(ports, vm, record, signal),
        vmSuspendedError(vm.id),
      ),
    restoreVm: (order) =>
      locks.lockForUpdate(order.vm, activitySignal(), (record, signal) => restoreVm(ports, order, record, signal)),
    pauseVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record) => pauseVm(ports, vm, record)),
    resumeVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record, signal) => resumeVm(ports, vm, record, signal)),
    rebootVm: (vm) => locks.lockForUpdate(vm, activitySignal(), (record, signal) => rebootVm(ports, vm, record, signal)),
    importDisk: (order) => locks.lockForUpdate(order.vm, activitySignal(), (_, signal) => importDisk(ports, order, signal)),
    shutDownGuest: (vm) =>
      locks.lockForUpdate(vm, activitySignal(), (record, signal) => shutDownGuest(ports, vm, record, signal)),
    storeImage: (order) =>
      locks.lockForUpdate(order.vm, activitySignal(), (record, signal) => storeImage(ports, order, record, signal)),
    removeDomain: (vmId, generation) =>
      locks.lockForRemoval(vmId, generation, (record) => removeDomain(ports, vmId, generation, record)),
    removeDisks: (vmId, generation) =>
      locks.lockForRemoval(vmId, generation, (record) => removeDisks(ports, vmId, generation, record)),
    removeVm: (vmId, generation) => locks.lockForRemoval(vmId, generation, (record) => removeVm(ports, vmId, generation, record)),
    observeLoads: (vmIds) => observeLoads(ports, vmIds),
    observeMigration: (vmId) => observeMigration(ports, vmId),
    readPortableRecord: (vmId, generation, commanded) => readPortableRecord(ports, vmId, generation, commanded),
    // Before the claim, which writes a record.
    prepareIncoming: async (order) => {
      await requireFreeDisk(ports, order.vm.id, 0);
      return locks.lockForUpdate(order.vm, activitySignal(), (record) => prepareIncoming(ports, order, record));
    },
    // Takes no turn: the command of a VM is followed while it moves.
    migrateOut: (order) => migrateOut(ports, order, aborted, activitySignal()),
    abortMigration: (vmId, generation, targetGeneration) => abortMigration(ports, vmId, generation, targetGeneration, aborted),
    resumeDomain: (vmId, generation) => fenced(ports, vmId, generation, () => resumeDomain(ports, vmId)),
    probeGuest: (vmId, generation) => fenced(ports, vmId, generation, () => probeGuest(ports, vmId, activitySignal())),
    observeRecovery: (order) =>
      fenced(ports, order.vmId, order.generation, () => observeRecovery(ports, order, activitySignal())),
    removeDomainUnlessRunning: (vmId, generation) =>
      fenced(ports, vmId, generation, () => removeDomainUnlessRunning(ports, vmId)),
    removeLeftover: (vmId, generation, home) =>
      locks.lockForRemoval(vmId, generation, (record) => removeLeftover(ports, vmId, generation, home, record)),
    offerCachedChunks: async (vm) => {
      await requireFreeDisk(ports, vm.id, vm.memoryMiB);
      return offerCachedChunks(ports, vm.id);
    },
    packColdCopy: (order) => packColdCopy(ports, order),
    unpackColdCopy: (order) => locks.lockForUpdate(order.vm, activitySignal(), (record) => unpackColdCopy(ports, order, record)),
    observeColdCopy: (vmId) => observeColdCopy(ports, vmId),
    resolveRestore: (vm) => locks.lockForUpdate(vm, activitySignal(), (record) => resolveRestore(ports, vm, record)),
    removeColdLeftover: (order) =>
      locks.lockForRemoval(order.vmId, order.generation, (record) => removeColdLeftover(ports, order, record)),
    // Nor do these: its disks follow a VM in the background.
    migrateDisks: (vm) => fenced(ports, vm.id, vm.generation, () => migrateDisks(ports, vm, activitySignal())),
    observeDiskMigration: (vmId) => observeDiskMigration(ports, vmId),
    resolveDiskMigration: (vm) => fenced(ports, vm.id, vm.generation, () => resolveDiskMigration(ports, vm)),
    flushGuestDisks: (vm) => locks.lockForUpdate(vm, activitySignal(), (record) => flushGuestDisks(ports, vm.id, record)),
  };
}

/** For orders that come while another step of the same VM may be under way: they are refused when they are of the past. */
async function fenced<T>({ store }: HostPorts, vmId: VmId, generation: number, act: () => Promise<T>): Promise<T> {
  const recorded = (await store.read(vmId))?.generation ?? 0;
  if (recorded > generation)
    throw new BerthError('stale-generation', `acting on ${vmId} with generation ${generation}: ${recorded} is recorded`);
  return act();
}
