import type { ActiveWorkLedger } from './ledger-active.ts';
import type { BalanceLedger } from './ledger-balance.ts';
import type { DrainLedger } from './ledger-drain.ts';
import type { HostLedger } from './ledger-host.ts';
import type { ImageLedger } from './ledger-image.ts';
import type { LeaseLedger } from './ledger-lease.ts';
import type { MigrationLedger } from './ledger-migration.ts';
import type { TaskLedger } from './ledger-task.ts';
import type { VmLedger } from './ledger-vm.ts';

export type * from './ledger-active.ts';
export type * from './ledger-balance.ts';
export type * from './ledger-drain.ts';
export type * from './ledger-host.ts';
export type * from './ledger-image.ts';
export type * from './ledger-lease.ts';
export type * from './ledger-migration.ts';
export type * from './ledger-placement.ts';
export type * from './ledger-task.ts';
export type * from './ledger-vm.ts';

/**
 * The activities on the ledger: short, run as local activities of the control worker, each one transaction. Repeating one
 * changes nothing. A fact that other systems learn of writes its event in the same transaction. Notifications that are
 * returned are of tasks and VMs that the transaction has placed.
 */
export type LedgerActivities = TaskLedger &
  LeaseLedger &
  VmLedger &
  HostLedger &
  ImageLedger &
  MigrationLedger &
  DrainLedger &
  BalanceLedger &
  ActiveWorkLedger;
