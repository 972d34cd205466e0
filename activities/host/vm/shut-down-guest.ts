import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainName } from './domain-names.ts';

/** Stopping its units takes a guest seconds; where it takes longer than this, its owner's programs prevent it. */
const shutDownDeadlineMs = 180_000;
const pollMs = 250;

/**
 * Shuts a guest down and waits until its domain is gone. The record says `flushed` first: the build's command ends with a
 * sync, so its writes are on the disks already, and a domain that ends by itself from here on loses nothing.
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
  const gone = await pollUntil(clock, { pollMs, deadlineMs: shutDownDeadlineMs, signal }, async () =>
    (await hypervisor.status(name)) === null ? true : null,
  );
  if (gone === null)
    throw new BerthError(
      'build-failed',
      `The guest did not shut down within ${shutDownDeadlineMs / 1000} s; see its console.log`,
    );
}
