/**
 * `live` is one operation; a cold migration is suspend, copy and resume, one after the other; `disks` are copied after a
 * live migration, or alone.
 */
export const operationKinds = ['live', 'suspend', 'copy', 'resume', 'disks'] as const;
export type OperationKind = (typeof operationKinds)[number];
export const moveModes = ['live', 'cold'] as const;
export type MoveMode = (typeof moveModes)[number];

/** What is known of a VM before it moves. */
export interface Load {
  vm: string;
  memoryMiB: number;
  /** Resident memory of the hypervisor's process; null: never measured. */
  residentMiB: number | null;
  /** Distinct memory that the guest writes in a second; null: never measured. */
  dirtyMiBPerS: number | null;
  /** The virtual size of its disks; only for moves with disks. */
  diskMiB?: number;
}

/** One planned operation. For suspend and resume, `from` and `to` are equal. */
export interface MigrationOperation {
  kind: OperationKind;
  from: string;
  to: string;
  load: Load;
  /** Operations that share the hosts with it, itself included, averaged over its duration. */
  concurrency: number;
}

/** A measured operation. */
export interface MigrationSample extends MigrationOperation {
  atMs: number;
  /** The whole duration, and the part in which bytes were sent. */
  seconds: number;
  transferS: number;
  bytes: number;
  /** Until its VM was as busy as before; null: not observed. */
  recoveryS?: number | null;
}

/** The operations that make up one move. @param filesOnly the VM does not run, and will not: its files are copied */
export function operationsOf(mode: MoveMode, move: Omit<MigrationOperation, 'kind'>, filesOnly = false): MigrationOperation[] {
  if (mode === 'live') return [{ ...move, kind: 'live' }];
  if (filesOnly) return [{ ...move, kind: 'copy' }];
  const { from, to } = move;
  return [
    { ...move, kind: 'suspend', to: from },
    { ...move, kind: 'copy' },
    { ...move, kind: 'resume', from: to },
  ];
}
