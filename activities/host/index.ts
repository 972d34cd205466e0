import { Context } from '@temporalio/activity';
import type { HostPorts } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { bringDisks, observeDisks, settleDisks } from './bring-disks.ts';
import { leaveCold, observeCopy, offerKept, packVm, settleRestored, unpackVm } from './carry.ts';
import { createClaims } from './claims.ts';
import type { HostActivities } from './contract.ts';
import { customizeVm } from './customize.ts';
import { ensureDisks } from './ensure-disks.ts';
import { ensureImage } from './ensure-image.ts';
import { ensureRunning } from './ensure-running.ts';
import { inventory } from './inventory.ts';
import { makeTemplate } from './make-template.ts';
import {
  abortOut,
  dropCopy,
  type Ended,
  hearGuest,
  leaveHost,
  migrateOut,
  observeMoving,
  prepareIncoming,
  readCarried,
  resumeHere,
  settleHere,
} from './migrate.ts';
import { observeHost } from './observe-host.ts';
import { observeLoads } from './observe-loads.ts';
import { pauseVm, rebootVm, resumeVm } from './power.ts';
import { quarantine } from './quarantine.ts';
import { readConsole } from './read-console.ts';
import { removeDisks } from './remove-disks.ts';
import { removeDomain } from './remove-domain.ts';
import { removeVm } from './remove-vm.ts';
import { requireRoom } from './room.ts';
import { runCommand } from './run-command.ts';
import { seeRecovery } from './see-recovery.ts';
import { shutDown } from './shut-down.ts';
import { stageIn } from './stage-in.ts';
import { stageOut } from './stage-out.ts';
import { stopCommand } from './stop-command.ts';
import { importDisk, storeImage } from './store-image.ts';
import { restoreVm, suspended, suspendVm } from './suspend.ts';

const cancelled = (): AbortSignal => Context.current().cancellationSignal;

/**
 * The durable steps of one host, over its ports. One file a phase; here each gets its turn. They need the context of
 * an activity; heartbeats and the form of errors are `guard`'s (activities/failure.ts).
 */
export function createHostActivities(ports: HostPorts): HostActivities {
  const claims = createClaims(ports.store);
  const ended: Ended = new Map();
  return {
    observeHost: () => observeHost(ports),
    presence: () => Context.current().cancelled,
    inventory: () => inventory(ports),
    quarantine: (vmId) => quarantine(ports, vmId),
    ensureImage: (image, pinnedUntil) => ensureImage(ports, image, pinnedUntil ?? null, cancelled()),
    removeImage: (id) => ports.images.remove(id),
    stageIn: (order) => claims.making(order.vm, cancelled(), (record, signal) => stageIn(ports, order, record, signal)),
    ensureDisks: (vm) => claims.making(vm, cancelled(), (_, signal) => ensureDisks(ports, vm, signal)),
    ensureRunning: (vm) => claims.making(vm, cancelled(), (record, signal) => ensureRunning(ports, vm, record, signal)),
    makeTemplate: (vm) => claims.making(vm, cancelled(), (_, signal) => makeTemplate(ports, vm, signal)),
    customizeVm: (order) => claims.making(order.vm, cancelled(), () => customizeVm(ports, order)),
    readConsole: (vmId, generation, range) => fresh(ports, vmId, generation, () => readConsole(ports, vmId, range)),
    runCommand: (order) => claims.making(order.vm, cancelled(), (record, signal) => runCommand(ports, order, record, signal)),
    stopCommand: (vmId, generation) => stopCommand(ports, vmId, generation),
    stageOut: (order) => claims.making(order.vm, cancelled(), (record, signal) => stageOut(ports, order, record, signal)),
    suspendVm: (vm) => claims.making(vm, cancelled(), (record, signal) => suspendVm(ports, vm, record, signal), suspended(vm.id)),
    restoreVm: (order) => claims.making(order.vm, cancelled(), (record, signal) => restoreVm(ports, order, record, signal)),
    pauseVm: (vm) => claims.making(vm, cancelled(), (record) => pauseVm(ports, vm, record)),
    resumeVm: (vm) => claims.making(vm, cancelled(), (record, signal) => resumeVm(ports, vm, record, signal)),
    rebootVm: (vm) => claims.making(vm, cancelled(), (record, signal) => rebootVm(ports, vm, record, signal)),
    importDisk: (order) => claims.making(order.vm, cancelled(), (_, signal) => importDisk(ports, order, signal)),
    shutDown: (vm) => claims.making(vm, cancelled(), (record, signal) => shutDown(ports, vm, record, signal)),
    storeImage: (order) => claims.making(order.vm, cancelled(), (record, signal) => storeImage(ports, order, record, signal)),
    removeDomain: (vmId, generation) =>
      claims.removing(vmId, generation, (record) => removeDomain(ports, vmId, generation, record)),
    removeDisks: (vmId, generation) =>
      claims.removing(vmId, generation, (record) => removeDisks(ports, vmId, generation, record)),
    removeVm: (vmId, generation) => claims.removing(vmId, generation, (record) => removeVm(ports, vmId, generation, record)),
    observeLoads: (vmIds) => observeLoads(ports, vmIds),
    observeMoving: (vmId) => observeMoving(ports, vmId),
    readCarried: (vmId, generation, commanded) => readCarried(ports, vmId, generation, commanded),
    // Before the claim, which writes a record.
    prepareIncoming: async (order) => {
      await requireRoom(ports, order.vm.id, 0);
      return claims.making(order.vm, cancelled(), (record) => prepareIncoming(ports, order, record));
    },
    // Takes no turn: the command of a VM is followed while it moves.
    migrateOut: (order) => migrateOut(ports, order, ended, cancelled()),
    abortOut: (vmId, generation, targetGeneration) => abortOut(ports, vmId, generation, targetGeneration, ended),
    resumeHere: (vmId, generation) => fresh(ports, vmId, generation, () => resumeHere(ports, vmId)),
    hearGuest: (vmId, generation) => fresh(ports, vmId, generation, () => hearGuest(ports, vmId, cancelled())),
    seeRecovery: (order) => fresh(ports, order.vmId, order.generation, () => seeRecovery(ports, order, cancelled())),
    dropCopy: (vmId, generation) => fresh(ports, vmId, generation, () => dropCopy(ports, vmId)),
    leaveHost: (vmId, generation, home) =>
      claims.removing(vmId, generation, (record) => leaveHost(ports, vmId, generation, home, record)),
    offerKept: async (vm) => {
      await requireRoom(ports, vm.id, vm.memoryMiB);
      return offerKept(ports, vm.id);
    },
    packVm: (order) => packVm(ports, order),
    unpackVm: (order) => claims.making(order.vm, cancelled(), (record) => unpackVm(ports, order, record)),
    observeCopy: (vmId) => observeCopy(ports, vmId),
    settleRestored: (vm) => claims.making(vm, cancelled(), (record) => settleRestored(ports, vm, record)),
    leaveCold: (order) => claims.removing(order.vmId, order.generation, (record) => leaveCold(ports, order, record)),
    // Nor do these: its disks follow a VM in the background.
    bringDisks: (vm) => fresh(ports, vm.id, vm.generation, () => bringDisks(ports, vm, cancelled())),
    observeDisks: (vmId) => observeDisks(ports, vmId),
    settleDisks: (vm) => fresh(ports, vm.id, vm.generation, () => settleDisks(ports, vm)),
    settleHere: (vm) => claims.making(vm, cancelled(), (record) => settleHere(ports, vm.id, record)),
  };
}

/** For orders that come while another step of the same VM may be under way: they are refused when they are of the past. */
async function fresh<T>({ store }: HostPorts, vmId: VmId, generation: number, act: () => Promise<T>): Promise<T> {
  const recorded = (await store.read(vmId))?.generation ?? 0;
  if (recorded > generation)
    throw new BerthError('stale-generation', `acting on ${vmId} with generation ${generation}: ${recorded} is recorded`);
  return act();
}
