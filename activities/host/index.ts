import { Context } from '@temporalio/activity';
import type { HostPorts } from '../../drivers/ports.ts';
import { createClaims } from './claims.ts';
import type { HostActivities } from './contract.ts';
import { ensureDisks } from './ensure-disks.ts';
import { ensureRunning } from './ensure-running.ts';
import { inventory } from './inventory.ts';
import { observeHost } from './observe-host.ts';
import { quarantine } from './quarantine.ts';
import { removeDisks } from './remove-disks.ts';
import { removeDomain } from './remove-domain.ts';
import { runCommand } from './run-command.ts';
import { stageIn } from './stage-in.ts';
import { stageOut } from './stage-out.ts';
import { stopCommand } from './stop-command.ts';

const cancelled = (): AbortSignal => Context.current().cancellationSignal;

/**
 * The durable steps of one host, over its ports. One file a phase; here each gets its turn. They need the context of
 * an activity; heartbeats and the form of errors are `guard`'s (activities/failure.ts).
 */
export function createHostActivities(ports: HostPorts): HostActivities {
  const claims = createClaims(ports.store);
  return {
    observeHost: () => observeHost(ports),
    presence: () => Context.current().cancelled,
    inventory: () => inventory(ports),
    quarantine: (vmId) => quarantine(ports, vmId),
    ensureImage: (image) => ports.images.ensure(image, cancelled()),
    stageIn: (order) => claims.making(order.vm, cancelled(), (record, signal) => stageIn(ports, order, record, signal)),
    ensureDisks: (vm) => claims.making(vm, cancelled(), (_, signal) => ensureDisks(ports, vm, signal)),
    ensureRunning: (vm) => claims.making(vm, cancelled(), (record, signal) => ensureRunning(ports, vm, record, signal)),
    runCommand: (order) => claims.making(order.vm, cancelled(), (record, signal) => runCommand(ports, order, record, signal)),
    stopCommand: (vmId, generation) => stopCommand(ports, vmId, generation),
    stageOut: (order) => claims.making(order.vm, cancelled(), (record, signal) => stageOut(ports, order, record, signal)),
    removeDomain: (vmId, generation) =>
      claims.removing(vmId, generation, (record) => removeDomain(ports, vmId, generation, record)),
    removeDisks: (vmId, generation) =>
      claims.removing(vmId, generation, (record) => removeDisks(ports, vmId, generation, record)),
  };
}
