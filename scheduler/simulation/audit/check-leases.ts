import type { SimulatedAction } from '../actions.ts';
import type { Schedule } from '../simulator.ts';
import type { TraceLease } from '../trace.ts';
import { type AuditContext, toleranceS } from './context.ts';

/**
 * Checks each lease alone: all or none of its VMs run, its start, its work, and that nothing is lost. Records its VMs'
 * occupancies.
 */
export function checkLeases(context: AuditContext): void {
  const { trace, schedule, byLease, report } = context;
  for (const lease of trace.leases) {
    const answer = schedule.answers.get(lease.id);
    const actions = byLease.get(lease.id) ?? [];
    if (answer === undefined) report(`${lease.id} got no answer`);
    else if (!answer.accepted && actions.length > 0) report(`${lease.id} was refused, and something was done for it`);
    else if (answer.accepted) {
      checkWork(context, lease, actions);
      if (answer.promise !== null) checkPromise(context, lease, answer.promise, actions);
      if (lease.kind === 'reservation' && answer.promise?.startAtS !== lease.startAtS) {
        report(`${lease.id} was promised another start than it requested`);
      }
    }
  }
}

function checkPromise(
  { report }: AuditContext,
  lease: TraceLease,
  promise: { startAtS: number },
  actions: readonly SimulatedAction[],
): void {
  const starts = actions.filter((action) => action.kind === 'start');
  if (starts.length !== 1 || actions.length !== 1)
    report(`reservation ${lease.id} was not started exactly once and left running`);
  if (starts[0] !== undefined && starts[0].workFromS !== promise.startAtS) {
    report(`reservation ${lease.id} was promised ${promise.startAtS} and starts at ${starts[0].workFromS}`);
  }
}

/** Reads the actions for an accepted lease in order, adds up its work and records its VMs' occupancies. */
function checkWork(
  { schedule, occupancies, report }: AuditContext,
  lease: TraceLease,
  actions: readonly SimulatedAction[],
): void {
  let hosts: string[] = [];
  let since: number[] | null = null; // of each VM, since when it is on its host
  let workFrom = 0;
  let done = 0;
  let readyAt = lease.submittedAtS;
  const closeOccupancies = (until: (vm: number) => number) => {
    for (const [vm, host] of hosts.entries()) occupancies.push({ lease: lease.id, host, from: since![vm]!, to: until(vm) });
    since = null;
  };
  for (const action of actions) {
    switch (action.kind) {
      case 'start':
      case 'resume': {
        if (since !== null) report(`${lease.id} is started while it runs`);
        if (action.fromS < readyAt - toleranceS) report(`${lease.id} is started at ${action.fromS}, before ${readyAt}`);
        const startedOn = action.kind === 'start' ? action.hosts : action.vms.map((vm) => vm.host);
        if (startedOn.length !== lease.nodes) report(`${lease.id} has ${startedOn.length} of ${lease.nodes} VMs started`);
        if (action.kind === 'resume' && startedOn.join() !== hosts.join())
          report(`${lease.id} resumes on hosts without its memory`);
        if (action.kind === 'start') done = 0;
        else if (action.vms.some((vm) => vm.untilS > action.workFromS + toleranceS))
          report(`${lease.id} works before its memory is read`);
        if (action.kind === 'start' && action.workFromS < action.fromS + (lease.bootS ?? schedule.policy.bootS)) {
          report(`${lease.id} works before it has booted`);
        }
        hosts = startedOn;
        since = startedOn.map(() => action.fromS);
        workFrom = action.workFromS;
        break;
      }
      case 'suspend':
        if (since === null) report(`${lease.id} is suspended while it does not run`);
        else closeOccupancies((vm) => action.vms.find((each) => each.vm === vm)?.untilS ?? Number.POSITIVE_INFINITY);
        if (action.vms.some((vm) => vm.fromS < action.fromS - toleranceS)) report(`${lease.id} is suspended while it works`);
        done += Math.max(0, action.fromS - workFrom);
        readyAt = action.untilS;
        break;
      case 'migrate':
        if (since !== null) report(`${lease.id} migrates while it runs`);
        if (action.fromS < readyAt - toleranceS) report(`${lease.id} migrates before it is suspended`);
        for (const { vm, from, to } of action.vms) {
          if (hosts[vm] !== from) report(`${lease.id} migrates from a host that it is not on`);
          hosts = hosts.with(vm, to);
        }
        readyAt = action.untilS;
        break;
      case 'stop':
      case 'breakPromise':
        if (since !== null) closeOccupancies(() => action.atS);
        // Includes VMs whose suspend has not begun.
        for (const one of occupancies) if (one.lease === lease.id) one.to = Math.min(one.to, action.atS);
        readyAt = action.atS;
        break;
    }
  }
  const ended = schedule.endedAtS.get(lease.id);
  if (ended === undefined) report(`${lease.id} was accepted and never ended`);
  else if (since === null) report(`${lease.id} ended while it did not run`);
  else {
    closeOccupancies(() => ended);
    const work = workS(schedule, lease);
    if (Math.abs(done + ended - workFrom - work) > toleranceS) {
      report(`${lease.id} did ${done + ended - workFrom} s of ${work} s of work`);
    }
  }
}

function workS(schedule: Schedule, lease: TraceLease): number {
  const limitS = Math.min(lease.actualDurationS ?? lease.durationS, lease.durationS);
  return lease.kind === 'bestEffort' ? Math.ceil(limitS * (1 + schedule.policy.runtimeOverhead) - toleranceS) : limitS;
}
