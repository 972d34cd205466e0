import type { DrainId } from '../model/drain.ts';
import type { HostId, ImageId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { ReservationId } from '../model/reservation.ts';
import type { BuildKey } from './ledger-image.ts';

/** Work that has begun and not ended: what the id of its workflow consists of, and its argument. */
export interface ActiveWork {
  vms: VmId[];
  migrations: { id: MigrationId; vmId: VmId; generation: number }[];
  drains: { id: DrainId; host: HostId; number: number }[];
  reservations: ReservationId[];
  builds: BuildKey[];
  hosts: HostId[];
  /** Where the next page begins. */
  next: ActiveWorkCursor;
}

/** The last id of each kind that was listed; null: the next page is the first again. */
export interface ActiveWorkCursor {
  vm: VmId | null;
  migration: MigrationId | null;
  drain: DrainId | null;
  reservation: ReservationId | null;
  build: ImageId | null;
  host: HostId | null;
}

export interface ActiveWorkLedger {
  /** One page of each kind of work, by id; a page that is shorter is the last one. */
  listActiveWork(after: ActiveWorkCursor): Promise<ActiveWork>;
}
