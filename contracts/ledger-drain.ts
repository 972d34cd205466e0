import type { DrainId, DrainMove, DrainState } from '../model/drain.ts';
import type { HostInventory } from '../model/host.ts';
import type { HostId, ImageId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { HostDrain, ReservationId, ReservationState } from '../model/reservation.ts';
import type { ObserveRecovery } from './host-migration.ts';
import type { Notification } from './ledger-placement.ts';

/** A VM that a drain has moved, and whose return to its former load is measured. */
export interface Recovery extends ObserveRecovery {
  migration: MigrationId;
  /** Where it is now. */
  host: HostId;
}

/** What a drain has to do now. */
export interface DrainStep {
  state: DrainState;
  host: HostId;
  /** Its migrations that are under way: to be started where they have no workflow, and followed. */
  moves: DrainMove[];
  /** Those of them that have to be cancelled. */
  abort: DrainMove[];
  /** VMs that their workflows have to suspend or restore now. */
  vmsToNotify: VmId[];
  /** The host's template builds have to be cancelled: no task waits for them. */
  cancelTemplateBuilds: boolean;
  /** Images that the targets have to fetch before the VMs come. */
  images: { host: HostId; image: ImageId }[];
  /** The ledger has nothing on the host any more: its inventory has to be verified. */
  verifyEmpty: boolean;
  /** Of tasks that this step has placed. */
  notifications: Notification[];
  /** Until the next round, unless a signal arrives; null: the poll interval. */
  waitMs: number | null;
  /** VMs whose load has to be sampled. */
  sampleLoads: VmId[];
  /** VMs that have just moved, and whose recovery has to be measured. */
  recoveries: Recovery[];
  /** For operators. */
  summary: string;
}

/** What a reservation of hosts has to do now. */
export interface ReservationStep {
  state: ReservationState;
  /** To be started where they have no workflow, and followed. */
  drains: HostDrain[];
  /** Cancelled ones, which have to be notified. */
  drainsToNotify: HostDrain[];
  notifications: Notification[];
  waitMs: number | null;
  summary: string;
}

/** Each step decides what is next and writes it, in one transaction. */
export interface DrainLedger {
  /** Throws not-found. */
  stepDrain(id: DrainId): Promise<DrainStep>;
  /** Verifies a host that is empty in the ledger. false: it is not empty, and the drain shows why. */
  verifyHostEmpty(id: DrainId, found: HostInventory): Promise<boolean>;
  /** The host could not be observed. */
  recordHostNotVerified(id: DrainId, why: string): Promise<void>;
  requestDrainCancel(id: DrainId): Promise<void>;
  /** Accepted drains whose workflow was never started. */
  listDrainsWithoutWorkflow(olderThanS: number): Promise<{ id: DrainId; host: HostId; number: number }[]>;
  stepReservation(id: ReservationId): Promise<ReservationStep>;
  requestReservationCancel(id: ReservationId): Promise<void>;
  listReservationsWithoutWorkflow(olderThanS: number): Promise<ReservationId[]>;
}
