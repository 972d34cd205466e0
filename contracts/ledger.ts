import type { Placement, VmPlacement } from './ledger-placement.ts';

export type { VmPlacement } from './ledger-placement.ts';

import type { ObserveRecovery } from './host-migration.ts';
import type { DrainKey, OperationTarget, VmDesired, VmRemoval } from './ledger-vm.ts';

export type { OperationTarget, VmDesired, VmRemoval } from './ledger-vm.ts';

import type { DrainId, DrainMove, DrainState } from '../model/drain.ts';
import type { ErrorCode } from '../model/errors.ts';
import type { HostFacts, HostInventory } from '../model/host.ts';
import type { HostId, ImageId, TaskId, VmId, WaiterId } from '../model/ids.ts';
import type { ResolvedBase } from '../model/image.ts';
import type { MigratedGuest, MigrationId, MigrationJob, MigrationRecord, PhaseEntry } from '../model/migration.ts';
import type { HostDrain, ReservationId, ReservationState } from '../model/reservation.ts';
import type { ImageState, TaskState, TerminalTaskState, VmState } from '../model/states.ts';
import type { Refusal, TaskError, TaskOutput, TaskSpec, TimelineEntry } from '../model/task.ts';
import type { Boot, ImageRef, VmLoad, VmSpec } from '../model/vm.ts';
import type { VmOperation } from '../model/vm-request.ts';
import type { CustomizeVm, RunCommand, StageIn, StageOut, StoreImage } from './host.ts';

/** What the task saga needs of the task's row. VM ids were chosen when the task was accepted. */
export interface TaskRecord {
  id: TaskId;
  owner: string;
  spec: TaskSpec;
  state: TaskState;
  vmIds: VmId[];
  /** Its owner asked for its end; the request itself may have been lost on its way to the workflow. */
  cancelRequested: boolean;
}

/** What the plan wants of a lease now. */
export type LeaseOrder = 'run' | 'suspend' | 'resume';

/** What the planner has decided, and written: whom to tell, and when there is something to decide again. */
export interface PlanStep {
  /** Tasks and VMs that were placed, or whose promise has changed. */
  placed: WaiterId[];
  /** Tasks that are to be suspended or resumed. */
  leaseOrderChanged: TaskId[];
  /** Migrations of suspended work that are to begin. */
  moves: { migration: MigrationId; vm: VmId; generation: number }[];
  /** null: when something happens. */
  wakeAt: string | null;
  leases: number;
}

/** Who is to be told after room was made: tasks that were placed; the planner, which alone places while there is a plan. */
export type Notification = WaiterId | 'planner';

/** Orders for one VM's host, with URLs signed for the time that the step may take. */
export interface TaskStepArgs {
  stageIn: StageIn;
  run: RunCommand;
  stageOut: StageOut;
  /** The workflow that moves this VM at the moment; null: it stays where it is. */
  migrationWorkflowId: string | null;
}

/** Where a VM is, and who moves it. */
export interface VmLocation {
  state: VmState;
  host: HostId | null;
  home: HostId | null;
  generation: number;
  migrationWorkflowId: string | null;
}

export interface VmBoot {
  vm: VmId;
  boot: Boot;
}

export type TemplatePlacement =
  | { kind: 'reserved'; vm: VmSpec }
  | { kind: 'left'; vm: VmId; generation: number }
  | { kind: 'waits'; reason: string };

export interface TaskOutcome {
  state: TerminalTaskState;
  exitCode: number | null;
  error: TaskError | null;
  outputs: TaskOutput[];
  bytesIn: number;
  bytesOut: number;
  /** When each VM's domain existed, from the host's clock; null when it never did. */
  vms: { id: VmId; startedAt: string | null; endedAt: string | null }[];
  timeline: TimelineEntry[];
}

/** What the build saga needs of an image's row. */
export interface BuildRecord {
  id: ImageId;
  name: string;
  digest: string;
  owner: string;
  state: ImageState;
  base: ResolvedBase['kind'];
  sizeMiB: number;
  timeoutS: number;
  vmId: VmId;
  /** Its owner asked for its end; the request itself may have been lost on its way to the workflow. */
  cancelRequested: boolean;
}

export type BuildPlacement = { placed: true; vm: VmSpec } | { placed: false; refusal: Refusal };

/** Orders for the build's host, with URLs signed for the time that it may take. */
export interface BuildStepArgs {
  stageIn: StageIn;
  run: RunCommand;
  store: StoreImage;
}

export type BuildOutcome =
  | { state: 'ready'; disk: { file: string; sha256: string; sizeBytes: number }; virtualMiB: number }
  | { state: 'failed'; error: TaskError };

/** Enough for the name of its workflow. */
export interface BuildKey {
  id: ImageId;
  name: string;
  digest: string;
}

/** Where a migration leads, once it is its turn. */
export interface MigrationRoute {
  from: { id: HostId; address: string };
  to: { id: HostId; address: string };
  home: { id: HostId; address: string };
  /** The VM as it will be at the target: its host and its generation there. */
  vm: VmSpec;
  /** It is suspended, and stays that. */
  suspended: boolean;
  /** Its generation where it runs now. */
  sourceGeneration: number;
}

export type MigrationAdmission = { admitted: true; route: MigrationRoute } | { admitted: false; reason: string };

export interface MigrationResult {
  downtimeMs: number | null;
  bytes: number;
  phases: PhaseEntry[];
}

/** How the disks followed their VM; with an error, they didn't. */
export interface DiskMoveResult {
  error: TaskError | null;
  bytes: number;
  phases: PhaseEntry[];
}

/** Why a migration came to nothing; `lost`: neither host has the VM any more. */
export interface MigrationFailure extends MigrationResult {
  error: TaskError;
  lost: boolean;
}

/** What a reservation of hosts has to do now. */
export interface ReservationStep {
  state: ReservationState;
  /** To be started where they aren't, and followed. */
  drains: HostDrain[];
  /** To be told that they were called off. */
  drainsToNotify: HostDrain[];
  notifications: Notification[];
  waitMs: number | null;
  summary: string;
}

/** A VM that a drain has moved, and that is to be as busy again as it was. */
export interface Recovery extends ObserveRecovery {
  migration: MigrationId;
  /** Where it is now. */
  host: HostId;
}

/** What a drain has to do now. */
export interface DrainStep {
  state: DrainState;
  host: HostId;
  /** Its migrations that are under way: to be started where they aren't, and followed. */
  moves: DrainMove[];
  /** Of these, the ones to be ended. */
  abort: DrainMove[];
  /** VMs that their workflows are to suspend or restore now. */
  vmsToNotify: VmId[];
  /** A template is being made there, which nobody waits for: that is to be ended. */
  cancelTemplateBuilds: boolean;
  /** What its targets have to fetch before the VMs come. */
  images: { host: HostId; image: ImageId }[];
  /** The ledger has nothing on the host any more: ask it what it has. */
  verifyEmpty: boolean;
  /** Tasks that were placed by this step. */
  notifications: Notification[];
  /** Until the next look, if nothing happens before; null: as usual. */
  waitMs: number | null;
  /** VMs whose memory is worth a look. */
  sampleLoads: VmId[];
  /** VMs that have just moved: how long they take to recover is looked at. */
  recoveries: Recovery[];
  /** For operators. */
  summary: string;
}

/**
 * Steps on the ledger: short, run as local activities of the control worker, each one transaction.
 * Repeating one is harmless. Every fact that outsiders hear of writes its event in the same transaction.
 */
export interface LedgerActivities {
  loadTask(id: TaskId): Promise<TaskRecord>;
  /**
   * Places queued tasks, oldest first, under the placement lock, and says what became of this one.
   * A placed task's VMs are rows in state `reserved` that count against their hosts.
   */
  reserveTask(id: TaskId): Promise<Placement>;
  /** Decides what is due by the plan, and writes it. The planner's, and nobody else's. */
  stepPlan(): Promise<PlanStep>;
  loadLeaseOrder(id: TaskId): Promise<LeaseOrder>;
  /** All its VMs are suspended, or run again. Repeating it changes nothing. Returns whom to tell. */
  recordLeaseSuspended(id: TaskId): Promise<Notification[]>;
  recordLeaseResumed(id: TaskId): Promise<Notification[]>;
  /** Fresh signed URLs for one VM of a task, where those that it got with its step ran out. */
  issueTaskStepArgs(id: TaskId, vmId: VmId): Promise<TaskStepArgs>;
  /**
   * Moves the task along its states; `started` is an event, written with the first `running`. The state that it has
   * already: only the timeline. `vmState` moves those of its VMs that can legally go there, in the same transaction.
   * `boots` are noted as well. Returns what the step that begins needs: an order a VM, by node, with fresh signed URLs; none for a step that needs
   * none. A task that has ended is left alone.
   */
  advanceTask(
    id: TaskId,
    state: TaskState,
    timeline: TaskOutcome['timeline'],
    vmState?: VmState,
    boots?: VmBoot[],
  ): Promise<TaskStepArgs[]>;
  /**
   * Its hosts fell silent before any domain was asked for: back to the queue, the VMs without host and with a higher
   * generation at the next placement. Returns the tasks that were placed in what it freed.
   */
  requeueTask(id: TaskId): Promise<Notification[]>;
  /**
   * The ledger's side of a suspension and a restoration (activities/host: suspendVm, restoreVm). Each begins with a new
   * generation. A VM that is suspended keeps its disks and its address, and frees its processors and its memory.
   */
  /** Of VMs that stand alone: what their workflow does in the ledger (ledger/vms/vms.ts). */
  loadVmDesired(id: VmId): Promise<VmDesired>;
  reserveVm(id: VmId): Promise<VmPlacement>;
  requeueVm(id: VmId): Promise<Notification[]>;
  recordVmStarted(id: VmId, startedAt: string, boot: Boot): Promise<void>;
  recordVmMissing(id: VmId, why: TaskError): Promise<void>;
  issueVmSetup(id: VmId): Promise<CustomizeVm>;
  recordVmCustomized(id: VmId, hostKey: string): Promise<void>;
  beginOperation(id: VmId, operation: VmOperation): Promise<OperationTarget>;
  beginStart(id: VmId): Promise<OperationTarget>;
  endOperation(id: VmId, operation: VmOperation, to: VmState | null, error: TaskError | null): Promise<DrainKey[]>;
  finishVm(id: VmId, end: VmRemoval): Promise<Notification[]>;
  listVmsToNotify(olderThanS: number): Promise<{ id: VmId; started: boolean }[]>;
  beginSuspension(id: VmId): Promise<OperationTarget>;
  commitSuspension(id: VmId): Promise<Notification[]>;
  beginRestoration(id: VmId): Promise<OperationTarget>;
  commitRestoration(id: VmId): Promise<void>;
  /** Back to where it was; `lost`: to `stuck`, since it neither runs nor has its memory. */
  rollBackSuspension(id: VmId, why: TaskError, lost: boolean): Promise<Notification[]>;
  /** Returns where the VM is now: it may have moved since it was placed. */
  setVmState(id: VmId, state: VmState, why?: { code: ErrorCode; message: string }): Promise<VmLocation>;
  loadVmLocation(id: VmId): Promise<VmLocation>;
  /**
   * Frees the VMs' resources, places what waits, and returns the tasks that were placed by it. From every state, also
   * of VMs that were never placed: called only when nothing of them is left on a host.
   */
  releaseVms(ids: VmId[]): Promise<Notification[]>;
  /**
   * Frees these VMs as releaseVms does; then the task's end, its outputs and its completion event, in one transaction,
   * once. Returns the tasks that were placed in what it freed.
   */
  finishTask(id: TaskId, outcome: TaskOutcome, free: VmId[]): Promise<Notification[]>;

  /** Host rows. `registerHost` also places what waits; both return the tasks that were placed. */
  registerHost(facts: HostFacts): Promise<Notification[]>;
  markHostUnreachable(id: HostId): Promise<void>;
  recordImageCached(host: HostId, imageId: string): Promise<void>;
  /** An image as one host is to fetch it now: fresh URLs, and the peers that have it. Throws image-unknown. */
  issueImageRef(id: ImageId, host: HostId): Promise<ImageRef>;
  /** What a build is, and that its workflow has asked. Throws not-found. */
  loadBuild(id: ImageId): Promise<BuildRecord>;
  /** Finds a host for the build's VM, or says why there is none now. Decided once. Throws conflict when it has ended. */
  reserveBuild(id: ImageId): Promise<BuildPlacement>;
  /** Fresh signed URLs for a build that was placed. */
  issueBuildStepArgs(id: ImageId): Promise<BuildStepArgs>;
  /** How far a build is. */
  recordBuildProgress(id: ImageId, timeline: TaskOutcome['timeline']): Promise<void>;
  /**
   * The build's end, once: the image is usable whole from this transaction on, or not at all. One whose VM is not the
   * image's any more is of the past, and left alone.
   */
  finishBuild(id: ImageId, vmId: VmId, outcome: BuildOutcome, timeline: TaskOutcome['timeline']): Promise<void>;
  /** Images to be built whose workflow was never started. */
  listBuildsWithoutWorkflow(olderThanS: number): Promise<BuildKey[]>;
  /** Builds whose end was asked for that long ago, and that have not ended. */
  listBuildsToCancel(olderThanS: number): Promise<BuildKey[]>;
  /** Retired images of which something is left on a host or in the repository. */
  listImagesToSweep(): Promise<ImageId[]>;
  /** Hosts that have an image, as far as is known. */
  listImageHosts(id: ImageId): Promise<HostId[]>;
  /** A host no longer has a retired image. */
  recordImageRemoved(host: HostId, id: ImageId): Promise<void>;
  /** The files of a retired image go, but for those that another image names. */
  removeImageFiles(id: ImageId): Promise<void>;
  /** What the ledger says this host should have, and what differs from what it has. Images that left its cache are forgotten. */
  compareHost(id: HostId, found: HostInventory): Promise<HostDifference>;
  /**
   * Takes room on a VM's host for one that becomes a template of its kind: a VM of nobody's, one at a time on a host.
   * `left`: what an earlier attempt still has there, to be removed first; `waits`: no room that no task waits for.
   */
  reserveTemplate(like: VmSpec): Promise<TemplatePlacement>;
  /** Accepted tasks whose workflow was never started, because the API died in between. */
  listTasksWithoutWorkflow(olderThanS: number): Promise<TaskId[]>;
  /**
   * Tasks that have begun and not ended, a page at a time in the order of their ids, to see that each has its workflow
   * still: those behind `after`; fewer than a page at the end.
   */
  listActiveTasks(after: TaskId | null): Promise<TaskId[]>;
  /** Tasks with a workflow whose end was asked for that long ago and that have not ended: the request was lost. */
  listTasksToCancel(olderThanS: number): Promise<TaskId[]>;
  loadMigration(id: MigrationId): Promise<MigrationRecord & { task: TaskId | null }>;
  /**
   * Chooses the target and takes room there, next to what the VM takes where it runs; or says why it has to wait.
   * Throws migration-refused with every host's reason, conflict when the VM is in no state to move.
   */
  reserveMigration(id: MigrationId): Promise<MigrationAdmission>;
  /** How it goes, for whoever asks. */
  /** What the guest does at the target, behind the commit; of one that is silent, an event. */
  recordMigratedGuest(id: MigrationId, guest: MigratedGuest): Promise<void>;
  recordMigrationProgress(id: MigrationId, phases: PhaseEntry[], job: MigrationJob | null): Promise<void>;
  /**
   * The VM is at the target: host, generation, the end of its stay at the source and `berth.vm.migrated`, in one
   * transaction, once. Returns the tasks that were placed in what it freed.
   */
  commitMigration(id: MigrationId, result: MigrationResult): Promise<Notification[]>;
  /** The VM is where it was, with the new generation; or stopped, when it was lost. Returns the tasks placed. */
  rollBackMigration(id: MigrationId, failure: MigrationFailure): Promise<Notification[]>;
  /** The disks have followed, and the target is the VM's home; or they stay where they were. Returns the tasks placed. */
  finishDiskMove(id: MigrationId, end: DiskMoveResult): Promise<Notification[]>;
  /** A live one whose pre-copy came to no end goes on as files: its mode is cold from here on. Throws conflict. */
  fallBackToCold(id: MigrationId): Promise<void>;
  /** Nobody can know yet where it is: it keeps its room at both hosts. */
  markMigrationStuck(id: MigrationId, why: TaskError): Promise<void>;
  /** Accepted migrations whose workflow was never started. */
  listMigrationsWithoutWorkflow(olderThanS: number): Promise<MigrationRecord[]>;

  /** Where a drain stands and what is next, decided and written down in one transaction. Throws not-found. */
  stepDrain(id: DrainId): Promise<DrainStep>;
  /** What its host has, when the ledger says that it has nothing. false: it is not empty yet, and the drain says why. */
  verifyHostEmpty(id: DrainId, found: HostInventory): Promise<boolean>;
  /** Its host could not be asked. */
  recordHostNotVerified(id: DrainId, why: string): Promise<void>;
  requestDrainCancel(id: DrainId): Promise<void>;
  /** Accepted drains whose workflow was never started. */
  listDrainsWithoutWorkflow(olderThanS: number): Promise<{ id: DrainId; host: HostId; number: number }[]>;
  /** Where a reservation of hosts stands and what is next, decided and written down in one transaction. */
  stepReservation(id: ReservationId): Promise<ReservationStep>;
  requestReservationCancel(id: ReservationId): Promise<void>;
  listReservationsWithoutWorkflow(olderThanS: number): Promise<ReservationId[]>;
  /** What a host saw its VMs do with their memory. */
  recordRecovery(migration: MigrationId): Promise<void>;
  recordLoads(loads: { vmId: VmId; load: VmLoad }[]): Promise<void>;

  /** Removes expired idempotency keys, abandoned uploads and events' claims; returns how many rows. */
  sweepExpiredRows(): Promise<number>;
}

export interface HostDifference {
  /** On the host, in nobody's row: to be quarantined. */
  foreignDomains: string[];
  foreignDisks: string[];
  /** In the ledger as alive on this host, and not there. */
  missing: VmId[];
  /** On the host, and in the ledger removed, elsewhere, or of a newer generation than the one found: to be removed. */
  leftovers: { vmId: VmId; generation: number }[];
}
