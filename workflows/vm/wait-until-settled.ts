import { condition } from '@temporalio/workflow';
import type { LedgerActivities, VmLocation } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import { Backoff } from '../durable/backoff.ts';
import { timing } from '../durable/timeouts.ts';

/** A VM as the saga that waits for its migrations has it. */
interface MigratingVm {
  readonly id: VmId;
  readonly ledger: LedgerActivities;
  readonly pace: number;
  /** Number of signals so far: each one says that the VM's location may have changed. */
  readonly signalsReceived: number;
}

/**
 * Waits until no migration of the VM is under way. It polls as well, for a lost signal. @returns where the VM is then
 * @param onMigration is called with the migration's workflow id before each wait
 * @param known the location, where the caller has just read it
 */
export async function waitUntilSettled(
  vm: MigratingVm,
  onMigration: (migration: string) => Promise<void>,
  known?: VmLocation,
): Promise<VmLocation> {
  const backoff = new Backoff(timing(vm.pace).ambiguousBackoff);
  let location = known ?? (await vm.ledger.loadVmLocation(vm.id));
  while (location.migrationWorkflowId !== null) {
    await onMigration(location.migrationWorkflowId);
    const signalsSeen = vm.signalsReceived;
    await condition(() => vm.signalsReceived > signalsSeen, backoff.next());
    location = await vm.ledger.loadVmLocation(vm.id);
  }
  return location;
}
