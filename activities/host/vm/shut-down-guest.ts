import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';

/** Stopping its units takes a guest seconds; one that doesn't end in this time is kept up by what its owner put in. */
const shutDownDeadlineMs = 180_000;
const pollMs = 250;

/**
 * Has a guest shut down, and waits until its domain is gone. The record says so first: what the command wrote is on the
 * disks already, because it ends with a sync, so a domain that goes by itself from here on loses nothing.
 */
export async function shutDownGuest(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<void> {
  const { guest, hypervisor, store, clock } = ports;
  const name = domainName(vm.id);
  if ((await hypervisor.status(name)) === null) {
    if (record.flushed) return;
    throw new BerthError('vm-lost', `shutting down ${name}: its domain ended before its disk was complete`);
  }
  if (!record.flushed) await store.writeDurably({ ...record, flushed: true });
  await guest.shutDown(name);
  for (
    const endMs = clock.nowMs() + shutDownDeadlineMs;
    (await hypervisor.status(name)) !== null;
    await clock.sleep(pollMs, signal)
  )
    if (clock.nowMs() > endMs)
      throw new BerthError(
        'build-failed',
        `The guest did not shut down within ${shutDownDeadlineMs / 1000} s; see its console.log`,
      );
}
