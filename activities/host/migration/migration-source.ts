import type { MigrationObservation, PortableRecord } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';
import { refuseStale, requireRecord } from '../vm-record.ts';

export async function observeMigration({ hypervisor, migrator }: HostPorts, vmId: VmId): Promise<MigrationObservation> {
  const name = domainName(vmId);
  // The job first: one that ends between the two calls is then still `active`, and the caller observes it again.
  const job = await migrator.observeJob(name);
  return { domain: await hypervisor.status(name), job };
}

export async function readPortableRecord(
  { store }: HostPorts,
  vmId: VmId,
  generation: number,
  runsCommand: boolean,
): Promise<PortableRecord> {
  const record = await requireSourceRecord(store, vmId, generation);
  const { staged, ready, jobStartedMs, idleMs, pausedSinceMs, boot, identityApplied, keepsOutputs } = record;
  // Until then runCommand is about to write this record, and would undo what the migration writes there.
  if (runsCommand && jobStartedMs === null)
    throw new BerthError('host-busy', `migrating ${vmId}: its command is being started; try again in a moment`);
  return { staged, ready, jobStartedMs, idleMs, pausedSinceMs, boot, identityApplied, keepsOutputs };
}

/** The record of a VM that may leave this host. */
export async function requireSourceRecord(store: HostPorts['store'], vmId: VmId, generation: number): Promise<VmRecord> {
  const record = await requireRecord(store, vmId, 'migrating');
  refuseStale(record, vmId, generation, 'migrating');
  if (record.removing || record.flushed)
    throw new BerthError('conflict', `migrating ${vmId}: its ${record.removing ? 'removal has begun' : 'disk is flushed'}`);
  return record;
}

/**
 * Migrations that were aborted from here, by VM the highest target generation. In memory: the attempts that it stops end
 * with this process, too.
 */
export type AbortedMigrations = Map<VmId, number>;

export async function abortMigration(
  { hypervisor, migrator, store }: HostPorts,
  vmId: VmId,
  generation: number,
  targetGeneration: number,
  aborted: AbortedMigrations,
): Promise<void> {
  aborted.set(vmId, Math.max(targetGeneration, aborted.get(vmId) ?? 0));
  const record = await store.read(vmId);
  if (record === null || record.generation > generation) return;
  const name = domainName(vmId);
  if ((await hypervisor.status(name)) === null) return;
  if ((await migrator.observeJob(name))?.active === true) await migrator.abort(name);
}
