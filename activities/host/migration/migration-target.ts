import type { DomainConfig } from '../../../contracts/domain.ts';
import type { PrepareIncoming } from '../../../contracts/host-migration.ts';
import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainConfig } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { describeDomain, requireNoDomain } from '../vm/domain-state.ts';

/** The record, the network and the console's folder at the target; returns the domain as this host is to run it. */
export async function prepareIncoming(ports: HostPorts, request: PrepareIncoming, record: VmRecord): Promise<DomainConfig> {
  const { store, imageCache, consoleHistory } = ports;
  const { vm, diskHostAddress, portableRecord, earlierConsole = null } = request;
  await requireNoDomain(ports, vm.id, 'conflict', 'preparing the migration of');
  if ((await imageCache.find(vm.image.id)) === null)
    throw new BerthError(
      'migration-refused',
      `preparing the migration of ${vm.id}: its image ${vm.image.name} left this host's cache`,
    );
  const config = await domainConfig(ports, vm, diskHostAddress);
  await consoleHistory.expect(vm.id, earlierConsole);
  await store.writeDurably({ ...record, ...portableRecord, flushed: false, arrivedPaused: request.paused === true });
  return config;
}

/** At either host, after both were observed: this domain is the only one, and it is complete. */
export async function resumeDomain({ hypervisor }: HostPorts, vmId: VmId): Promise<void> {
  const name = domainName(vmId);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `resuming ${name}: there is no such domain`);
  if (found.state === 'paused') await hypervisor.resumeCpus(name);
  else if (found.state !== 'running') throw new BerthError('ambiguous', `resuming ${name}: ${describeDomain(found)}`);
}

/** An emulator translates a migrated guest's code anew, and an overcommitted guest is slow at everything. */
const agentDeadlineMs = 60_000;

export async function probeGuest({ guest, clock }: HostPorts, vmId: VmId, signal: AbortSignal): Promise<boolean> {
  const options = { pollMs: 100, deadlineMs: agentDeadlineMs, signal };
  return (await pollUntil(clock, options, async () => ((await guest.ping(domainName(vmId))) ? true : null))) !== null;
}
