import { advanceTask } from './advance-task.ts';
import { buildOrders, finishBuild, loadBuild, noteBuild, reserveBuild } from './builds.ts';
import { compareHost } from './compare-host.ts';
import type { LedgerActivities } from './contract.ts';
import type { LedgerDeps } from './deps.ts';
import { drainsWithoutWorkflow, missProof, proveEmpty, requestDrainEnd, stepDrain } from './drains.ts';
import { commitMigration, endDiskMove, rollBackMigration } from './end-migration.ts';
import { finishTask } from './finish-task.ts';
import { hostArrived, hostSilent, imageCached } from './hosts.ts';
import { sweep, tasksToCancel, tasksUnderWay, tasksWithoutWorkflow } from './housekeeping.ts';
import { imageFor } from './image-refs.ts';
import { leaseOrder, leaseResumed, leaseSuspended } from './lease-order.ts';
import { loadTask } from './load-task.ts';
import { noteLoads, noteRecovery } from './measurements.ts';
import {
  loadMigration,
  migrationsWithoutWorkflow,
  noteGuest,
  noteMigration,
  reserveMigration,
  stickMigration,
  turnCold,
} from './migrations.ts';
import { plan } from './plan.ts';
import { releaseVms, requeueTask } from './release.ts';
import { requestReservationEnd, reservationsWithoutWorkflow, stepReservation } from './reservations.ts';
import { reserveTask } from './reserve-task.ts';
import { buildsToCancel, buildsWithoutWorkflow, forgetImage, holdersOf, imageGone, imagesToSweep } from './retired-images.ts';
import { beginRestoration, beginSuspension, commitRestoration, commitSuspension, rollBackPower } from './suspension.ts';
import { taskOrders } from './task-orders.ts';
import { reserveTemplate } from './templates.ts';
import { setVmState, vmPlace } from './vm-state.ts';

import {
  beginOperation,
  beginStart,
  endOperation,
  finishVm,
  requeueVm,
  reserveVm,
  vmCustomized,
  vmMissing,
  vmOrders,
  vmStarted,
  vmsToTell,
  vmWish,
} from './vms.ts';

export type { LedgerDeps } from './deps.ts';

/** The steps on the ledger, over one database. Errors are BerthErrors, or the driver's where the database is away. */
export function createLedgerActivities(deps: LedgerDeps): LedgerActivities {
  return {
    loadTask: (id) => loadTask(deps, id),
    reserveTask: (id) => reserveTask(deps, id),
    plan: () => plan(deps),
    leaseOrder: (id) => leaseOrder(deps, id),
    leaseSuspended: (id) => leaseSuspended(deps, id),
    leaseResumed: (id) => leaseResumed(deps, id),
    taskOrders: (id, vmId) => taskOrders(deps, id, vmId),
    advanceTask: (id, state, timeline, vmState, boots) => advanceTask(deps, id, state, timeline, vmState, boots),
    requeueTask: (id) => requeueTask(deps, id),
    vmWish: (id) => vmWish(deps, id),
    reserveVm: (id) => reserveVm(deps, id),
    requeueVm: (id) => requeueVm(deps, id),
    vmStarted: (id, startedAt, boot) => vmStarted(deps, id, startedAt, boot),
    vmMissing: (id, why) => vmMissing(deps, id, why),
    vmOrders: (id) => vmOrders(deps, id),
    vmCustomized: (id, hostKey) => vmCustomized(deps, id, hostKey),
    beginOperation: (id, operation) => beginOperation(deps, id, operation),
    beginStart: (id) => beginStart(deps, id),
    endOperation: (id, operation, to, error) => endOperation(deps, id, operation, to, error),
    finishVm: (id, end) => finishVm(deps, id, end),
    vmsToTell: (olderThanS) => vmsToTell(deps, olderThanS),
    beginSuspension: (id) => beginSuspension(deps, id),
    commitSuspension: (id) => commitSuspension(deps, id),
    beginRestoration: (id) => beginRestoration(deps, id),
    commitRestoration: (id) => commitRestoration(deps, id),
    rollBackPower: (id, why, lost) => rollBackPower(deps, id, why, lost),
    setVmState: (id, state, why) => setVmState(deps, id, state, why),
    vmPlace: (id) => vmPlace(deps, id),
    releaseVms: (ids) => releaseVms(deps, ids),
    finishTask: (id, outcome, free) => finishTask(deps, id, outcome, free),
    hostArrived: (facts) => hostArrived(deps, facts),
    hostSilent: (id) => hostSilent(deps, id),
    imageCached: (host, imageId) => imageCached(deps, host, imageId),
    imageFor: (id, host) => imageFor(deps, id, host),
    loadBuild: (id) => loadBuild(deps, id),
    reserveBuild: (id) => reserveBuild(deps, id),
    buildOrders: (id) => buildOrders(deps, id),
    noteBuild: (id, timeline) => noteBuild(deps, id, timeline),
    finishBuild: (id, vmId, outcome, timeline) => finishBuild(deps, id, vmId, outcome, timeline),
    buildsWithoutWorkflow: (olderThanS) => buildsWithoutWorkflow(deps, olderThanS),
    buildsToCancel: (olderThanS) => buildsToCancel(deps, olderThanS),
    imagesToSweep: () => imagesToSweep(deps),
    holdersOf: (id) => holdersOf(deps, id),
    imageGone: (host, id) => imageGone(deps, host, id),
    forgetImage: (id) => forgetImage(deps, id),
    compareHost: (id, found) => compareHost(deps, id, found),
    reserveTemplate: (like) => reserveTemplate(deps, like),
    tasksWithoutWorkflow: (olderThanS) => tasksWithoutWorkflow(deps, olderThanS),
    tasksUnderWay: (after) => tasksUnderWay(deps, after),
    tasksToCancel: (olderThanS) => tasksToCancel(deps, olderThanS),
    loadMigration: (id) => loadMigration(deps, id),
    reserveMigration: (id) => reserveMigration(deps, id),
    noteGuest: (id, guest) => noteGuest(deps, id, guest),
    noteMigration: (id, phases, job) => noteMigration(deps, id, phases, job),
    commitMigration: (id, result) => commitMigration(deps, id, result),
    rollBackMigration: (id, failure) => rollBackMigration(deps, id, failure),
    endDiskMove: (id, end) => endDiskMove(deps, id, end),
    turnCold: (id) => turnCold(deps, id),
    stickMigration: (id, why) => stickMigration(deps, id, why),
    migrationsWithoutWorkflow: (olderThanS) => migrationsWithoutWorkflow(deps, olderThanS),
    stepDrain: (id) => stepDrain(deps, id),
    proveEmpty: (id, found) => proveEmpty(deps, id, found),
    missProof: (id, why) => missProof(deps, id, why),
    requestDrainEnd: (id) => requestDrainEnd(deps, id),
    drainsWithoutWorkflow: (olderThanS) => drainsWithoutWorkflow(deps, olderThanS),
    stepReservation: (id) => stepReservation(deps, id),
    requestReservationEnd: (id) => requestReservationEnd(deps, id),
    reservationsWithoutWorkflow: (olderThanS) => reservationsWithoutWorkflow(deps, olderThanS),
    noteLoads: (loads) => noteLoads(deps, loads),
    noteRecovery: (migration) => noteRecovery(deps, migration),
    sweep: () => sweep(deps),
  };
}
