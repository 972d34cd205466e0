import type { LedgerActivities } from '../../contracts/ledger.ts';
import { listActiveWork } from '../../ledger/active-work.ts';
import { closeHelp, hasSettled } from '../../ledger/balance/close-help.ts';
import { openHelp } from '../../ledger/balance/open-help.ts';
import { takeOffers } from '../../ledger/balance/take-offers.ts';
import { listDrainsWithoutWorkflow, requestDrainCancel } from '../../ledger/drains/housekeeping.ts';
import { stepDrain } from '../../ledger/drains/step-drain.ts';
import { recordHostNotVerified, verifyHostEmpty } from '../../ledger/drains/verify-empty.ts';
import { compareHost } from '../../ledger/hosts/compare-inventory.ts';
import { markHostUnreachable, recordImageCached, registerHost } from '../../ledger/hosts/hosts.ts';
import { listBuildsToCancel, listBuildsWithoutWorkflow } from '../../ledger/images/build-housekeeping.ts';
import { issueBuildStepArgs, loadBuild, reserveBuild } from '../../ledger/images/builds.ts';
import { finishBuild, recordBuildProgress } from '../../ledger/images/finish-build.ts';
import { issueImageRef } from '../../ledger/images/image-refs.ts';
import { listImageHosts, listImagesToSweep, recordImageRemoved, removeImageFiles } from '../../ledger/images/retirement.ts';
import { reserveTemplate } from '../../ledger/images/template-vms.ts';
import { stepPlan } from '../../ledger/leases/execute-plan.ts';
import { loadLeaseOrder, recordLeaseResumed, recordLeaseSuspended } from '../../ledger/leases/preemption.ts';
import { ledgerError } from '../../ledger/ledger-error.ts';
import { liftFence } from '../../ledger/levers/fences.ts';
import { commitMigration, finishDiskMove, rollBackMigration } from '../../ledger/migrations/end-migration.ts';
import { listMigrationsWithoutWorkflow, loadMigration } from '../../ledger/migrations/load-migration.ts';
import { recordLoads, recordRecovery } from '../../ledger/migrations/measurements.ts';
import {
  fallBackToCold,
  markMigrationStuck,
  recordMigratedGuest,
  recordMigrationProgress,
} from '../../ledger/migrations/progress.ts';
import { reserveMigration } from '../../ledger/migrations/reserve-migration.ts';
import {
  listReservationsWithoutWorkflow,
  requestReservationCancel,
  stepReservation,
} from '../../ledger/reservations/step-reservation.ts';
import { removeExpired } from '../../ledger/retention/remove-expired.ts';
import { sweepExpiredRows } from '../../ledger/sweep-expired.ts';
import { advanceTask } from '../../ledger/tasks/advance-task.ts';
import { finishTask } from '../../ledger/tasks/finish-task.ts';
import { listActiveTasks, listTasksToCancel, listTasksWithoutWorkflow } from '../../ledger/tasks/housekeeping.ts';
import { loadTask } from '../../ledger/tasks/load-task.ts';
import { requeueTask } from '../../ledger/tasks/requeue-task.ts';
import { reserveTask } from '../../ledger/tasks/reserve-task.ts';
import { issueTaskStepArgs } from '../../ledger/tasks/task-step-args.ts';
import { isoNow, type LedgerDeps } from '../../ledger/transaction.ts';
import { beginOperation, beginStart, endOperation } from '../../ledger/vms/begin-operation.ts';
import { listVmsToNotify, loadVmDesired } from '../../ledger/vms/desired.ts';
import { loadDomainTargets, recordDomains } from '../../ledger/vms/domains/record-conditions.ts';
import { recordVmMissing, recordVmStarted } from '../../ledger/vms/domains/record-domain.ts';
import { finishVm } from '../../ledger/vms/finish-vm.ts';
import { releaseVms } from '../../ledger/vms/release-vms.ts';
import { requeueVm, reserveVm } from '../../ledger/vms/reserve-vm.ts';
import {
  beginRestoration,
  beginSuspension,
  commitRestoration,
  commitSuspension,
  rollBackSuspension,
} from '../../ledger/vms/suspension.ts';
import { issueVmSetup, recordVmCustomized } from '../../ledger/vms/vm-setup.ts';
import { loadVmLocation, setVmState } from '../../ledger/vms/vm-state.ts';

export type { LedgerDeps } from '../../ledger/transaction.ts';

/**
 * Binds the ledger's functions to the contract of its activities. Throws BerthErrors, or the driver's errors while the
 * database is unreachable.
 */
export function createLedgerActivities(deps: LedgerDeps): LedgerActivities {
  return throwLedgerErrors(bindActivities(deps));
}

/** Also the errors of statements outside a transaction become what they stand for. */
function throwLedgerErrors(activities: LedgerActivities): LedgerActivities {
  const translated: Record<string, unknown> = {};
  for (const [name, act] of Object.entries(activities))
    translated[name] = async (...args: unknown[]) => {
      try {
        return await (act as (...args: unknown[]) => Promise<unknown>)(...args);
      } catch (error) {
        throw ledgerError(error) ?? error;
      }
    };
  return translated as unknown as LedgerActivities;
}

function bindActivities(deps: LedgerDeps): LedgerActivities {
  return {
    loadTask: (id) => loadTask(deps, id),
    reserveTask: (id) => reserveTask(deps, id),
    stepPlan: () => stepPlan(deps),
    loadLeaseOrder: (id) => loadLeaseOrder(deps, id),
    recordLeaseSuspended: (id) => recordLeaseSuspended(deps, id),
    recordLeaseResumed: (id) => recordLeaseResumed(deps, id),
    issueTaskStepArgs: (id, vmId) => issueTaskStepArgs(deps, id, vmId),
    advanceTask: (id, state, timeline, vmState, boots) => advanceTask(deps, id, state, timeline, vmState, boots),
    requeueTask: (id) => requeueTask(deps, id),
    loadVmDesired: (id) => loadVmDesired(deps, id),
    reserveVm: (id) => reserveVm(deps, id),
    requeueVm: (id) => requeueVm(deps, id),
    recordVmStarted: (id, startedAt, boot, reportedAt) => recordVmStarted(deps, id, startedAt, boot, reportedAt),
    recordVmMissing: (id, why, agoMs) => recordVmMissing(deps, id, why, agoMs),
    issueVmSetup: (id) => issueVmSetup(deps, id),
    recordVmCustomized: (id, hostKey) => recordVmCustomized(deps, id, hostKey),
    beginOperation: (id, operation) => beginOperation(deps, id, operation),
    beginStart: (id) => beginStart(deps, id),
    endOperation: (id, operation, to, error) => endOperation(deps, id, operation, to, error),
    finishVm: (id, end) => finishVm(deps, id, end),
    listVmsToNotify: (olderThanS) => listVmsToNotify(deps, olderThanS),
    beginSuspension: (id) => beginSuspension(deps, id),
    commitSuspension: (id) => commitSuspension(deps, id),
    beginRestoration: (id) => beginRestoration(deps, id),
    commitRestoration: (id) => commitRestoration(deps, id),
    rollBackSuspension: (id, why, lost, agoMs) => rollBackSuspension(deps, id, why, lost, agoMs),
    setVmState: (id, state, why) => setVmState(deps, id, state, why),
    loadVmLocation: (id) => loadVmLocation(deps, id),
    releaseVms: (ids) => releaseVms(deps, ids),
    finishTask: (id, outcome, free) => finishTask(deps, id, outcome, free),
    registerHost: (facts) => registerHost(deps, facts),
    loadDomainTargets: (id, vmIds) => loadDomainTargets(deps, id, vmIds),
    recordDomains: (id, findings) => recordDomains(deps, id, findings),
    markHostUnreachable: (id) => markHostUnreachable(deps, id),
    recordImageCached: (host, image) => recordImageCached(deps, host, image),
    issueImageRef: (id, host) => issueImageRef(deps, id, host),
    loadBuild: (id) => loadBuild(deps, id),
    reserveBuild: (id) => reserveBuild(deps, id),
    issueBuildStepArgs: (id) => issueBuildStepArgs(deps, id),
    recordBuildProgress: (id, timeline) => recordBuildProgress(deps, id, timeline),
    finishBuild: (id, vmId, outcome, timeline) => finishBuild(deps, id, vmId, outcome, timeline),
    listBuildsWithoutWorkflow: (olderThanS) => listBuildsWithoutWorkflow(deps, olderThanS),
    listBuildsToCancel: (olderThanS) => listBuildsToCancel(deps, olderThanS),
    listImagesToSweep: () => listImagesToSweep(deps),
    listImageHosts: (id) => listImageHosts(deps, id),
    recordImageRemoved: (host, id) => recordImageRemoved(deps, host, id),
    removeImageFiles: (id) => removeImageFiles(deps, id),
    readClock: async () => isoNow(deps),
    compareHost: (id, found, askedAt) => compareHost(deps, id, found, askedAt),
    liftFence: (host, vm) => liftFence(deps, host, vm),
    reserveTemplate: (like) => reserveTemplate(deps, like),
    listTasksWithoutWorkflow: (olderThanS) => listTasksWithoutWorkflow(deps, olderThanS),
    listActiveTasks: (after) => listActiveTasks(deps, after),
    listActiveWork: (after) => listActiveWork(deps, after),
    listTasksToCancel: (olderThanS) => listTasksToCancel(deps, olderThanS),
    loadMigration: (id) => loadMigration(deps, id),
    reserveMigration: (id) => reserveMigration(deps, id),
    recordMigratedGuest: (id, guest) => recordMigratedGuest(deps, id, guest),
    recordMigrationProgress: (id, phases, job) => recordMigrationProgress(deps, id, phases, job),
    commitMigration: (id, result) => commitMigration(deps, id, result),
    rollBackMigration: (id, failure) => rollBackMigration(deps, id, failure),
    finishDiskMove: (id, end) => finishDiskMove(deps, id, end),
    fallBackToCold: (id) => fallBackToCold(deps, id),
    markMigrationStuck: (id, why) => markMigrationStuck(deps, id, why),
    listMigrationsWithoutWorkflow: (olderThanS) => listMigrationsWithoutWorkflow(deps, olderThanS),
    stepDrain: (id) => stepDrain(deps, id),
    verifyHostEmpty: (id, found) => verifyHostEmpty(deps, id, found),
    recordHostNotVerified: (id, why) => recordHostNotVerified(deps, id, why),
    requestDrainCancel: (id) => requestDrainCancel(deps, id),
    listDrainsWithoutWorkflow: (olderThanS) => listDrainsWithoutWorkflow(deps, olderThanS),
    stepReservation: (id) => stepReservation(deps, id),
    requestReservationCancel: (id) => requestReservationCancel(deps, id),
    listReservationsWithoutWorkflow: (olderThanS) => listReservationsWithoutWorkflow(deps, olderThanS),
    openHelp: (id, host, verdict) => openHelp(deps, id, host, verdict),
    takeOffers: (id) => takeOffers(deps, id),
    hasSettled: (id) => hasSettled(deps, id),
    closeHelp: (id, problem) => closeHelp(deps, id, problem),
    recordLoads: (loads) => recordLoads(deps, loads),
    recordRecovery: (migration) => recordRecovery(deps, migration),
    sweepExpiredRows: () => sweepExpiredRows(deps),
    removeExpired: () => removeExpired(deps),
  };
}
