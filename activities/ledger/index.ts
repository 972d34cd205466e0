import { advanceTask } from './advance-task.ts';
import { issueBuildStepArgs, finishBuild, loadBuild, recordBuildProgress, reserveBuild } from './builds.ts';
import { compareHost } from './compare-host.ts';
import type { LedgerActivities } from './contract.ts';
import type { LedgerDeps } from './deps.ts';
import { listDrainsWithoutWorkflow, recordHostNotVerified, verifyHostEmpty, requestDrainCancel, stepDrain } from './drains.ts';
import { commitMigration, finishDiskMove, rollBackMigration } from './end-migration.ts';
import { finishTask } from './finish-task.ts';
import { registerHost, markHostUnreachable, recordImageCached } from './hosts.ts';
import { sweepExpiredRows, listTasksToCancel, listActiveTasks, listTasksWithoutWorkflow } from './housekeeping.ts';
import { issueImageRef } from './image-refs.ts';
import { loadLeaseOrder, recordLeaseResumed, recordLeaseSuspended } from './lease-order.ts';
import { loadTask } from './load-task.ts';
import { recordLoads, recordRecovery } from './measurements.ts';
import {
  loadMigration,
  listMigrationsWithoutWorkflow,
  recordMigratedGuest,
  recordMigrationProgress,
  reserveMigration,
  markMigrationStuck,
  fallBackToCold,
} from './migrations.ts';
import { stepPlan } from './plan.ts';
import { releaseVms, requeueTask } from './release.ts';
import { requestReservationCancel, listReservationsWithoutWorkflow, stepReservation } from './reservations.ts';
import { reserveTask } from './reserve-task.ts';
import {
  listBuildsToCancel,
  listBuildsWithoutWorkflow,
  removeImageFiles,
  listImageHosts,
  recordImageRemoved,
  listImagesToSweep,
} from './retired-images.ts';
import { beginRestoration, beginSuspension, commitRestoration, commitSuspension, rollBackSuspension } from './suspension.ts';
import { issueTaskStepArgs } from './task-orders.ts';
import { reserveTemplate } from './templates.ts';
import { setVmState, loadVmLocation } from './vm-state.ts';

import {
  beginOperation,
  beginStart,
  endOperation,
  finishVm,
  requeueVm,
  reserveVm,
  recordVmCustomized,
  recordVmMissing,
  issueVmSetup,
  recordVmStarted,
  listVmsToNotify,
  loadVmDesired,
} from './vms.ts';

export type { LedgerDeps } from './deps.ts';

/** The steps on the ledger, over one database. Errors are BerthErrors, or the driver's where the database is away. */
export function createLedgerActivities(deps: LedgerDeps): LedgerActivities {
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
    recordVmStarted: (id, startedAt, boot) => recordVmStarted(deps, id, startedAt, boot),
    recordVmMissing: (id, why) => recordVmMissing(deps, id, why),
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
    rollBackSuspension: (id, why, lost) => rollBackSuspension(deps, id, why, lost),
    setVmState: (id, state, why) => setVmState(deps, id, state, why),
    loadVmLocation: (id) => loadVmLocation(deps, id),
    releaseVms: (ids) => releaseVms(deps, ids),
    finishTask: (id, outcome, free) => finishTask(deps, id, outcome, free),
    registerHost: (facts) => registerHost(deps, facts),
    markHostUnreachable: (id) => markHostUnreachable(deps, id),
    recordImageCached: (host, imageId) => recordImageCached(deps, host, imageId),
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
    compareHost: (id, found) => compareHost(deps, id, found),
    reserveTemplate: (like) => reserveTemplate(deps, like),
    listTasksWithoutWorkflow: (olderThanS) => listTasksWithoutWorkflow(deps, olderThanS),
    listActiveTasks: (after) => listActiveTasks(deps, after),
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
    recordLoads: (loads) => recordLoads(deps, loads),
    recordRecovery: (migration) => recordRecovery(deps, migration),
    sweepExpiredRows: () => sweepExpiredRows(deps),
  };
}
