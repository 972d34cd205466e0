import type { EmitAction, LeaseAction, LeaseObservation } from './actions.ts';
import { type AdmissionDecision, admit } from './admission.ts';
import { dispatch } from './dispatch.ts';
import { bindDue, nextBindAt, preemptDue, startDue } from './due-actions.ts';
import { imagesInPlace } from './image-delivery.ts';
import type { Lease } from './lease.ts';
import { onResumed, onSuspended, settleOverdue } from './lease-lifecycle.ts';
import { restoreState, type Snapshot } from './plan-snapshot.ts';
import { type LeaseRecord, type PlanState, vmStartAt } from './plan-state.ts';
import { describePlan, type PlanView } from './plan-view.ts';
import { plannedPreemptions } from './preemption.ts';

/**
 * Plans the leases of one site: `submit` and `observe` tell it about requests and events, `decide` returns what to do now,
 * and `wakeAt` the latest time for the next decision. It has no clock and does nothing itself; equal calls give equal
 * results. The simulator drives the same code through SimulatedPlanner.
 */
export class LeasePlanner {
  readonly state: PlanState;

  constructor(state: PlanState) {
    this.state = state;
  }

  static restore(snapshot: Snapshot): LeasePlanner {
    return new LeasePlanner(restoreState(snapshot, imagesInPlace));
  }

  /** The current plan, with a quote for every lease. */
  plan(now: number): PlanView {
    return describePlan(this.state, now);
  }

  /** Accepts a lease, with a promise if it is a reservation, or refuses it with a reason and alternatives. */
  submit(lease: Lease, now: number): AdmissionDecision {
    return admit(this.state, lease, now);
  }

  /** Records what happened. Unknown leases and repeated reports are ignored. */
  observe(event: LeaseObservation, now: number): void {
    const record = this.state.leases.get(event.lease);
    if (event.kind === 'suspended' && record?.phase === 'suspending') onSuspended(this.state, record, now);
    if (event.kind === 'resumed' && record?.phase === 'resuming') onResumed(this.state, record, now);
  }

  /** Everything to do now, in the order in which it must begin. */
  decide(now: number): LeaseAction[] {
    const actions: LeaseAction[] = [];
    decideActions(this.state, now, (action) => actions.push(action));
    return actions;
  }

  /** When `decide` is needed again if nothing happens; Infinity: not before something happens. */
  wakeAt(now: number): number {
    let at = Number.POSITIVE_INFINITY;
    const consider = (moment: number | undefined) => {
      if (moment !== undefined && moment > now && moment < at) at = moment;
    };
    consider(nextBindAt(this.state, now));
    consider(this.state.upcoming.map((record) => vmStartAt(this.state, record)).find((startsAt) => startsAt > now));
    for (const record of this.state.underway) consider(wakeForRecord(record));
    for (const { drain } of this.state.hosts) consider(drain?.until);
    for (const preemption of plannedPreemptions(this.state)) consider(preemption.at);
    return at;
  }
}

function wakeForRecord({ phase, expectedEnd, operation }: LeaseRecord): number {
  return phase === 'running' ? expectedEnd : operation.until;
}

/**
 * One decision.
 * @param sendImages starts the transfers that are due; true: they changed hosts of leases
 */
export function decideActions(state: PlanState, now: number, emit: EmitAction, sendImages: () => boolean = () => false): void {
  for (const host of state.hosts) {
    if (host.memoryOps.length > 0) host.memoryOps = host.memoryOps.filter((op) => op.until > now);
    if (host.drain !== null && host.drain.until <= now) host.drain = null;
  }
  settleOverdue(state, now, emit);
  // Started work takes time to preempt, and a transfer makes a reservation's hosts final: both can make more work due.
  do {
    bindDue(state, now);
    preemptDue(state, now, emit);
    startDue(state, now, emit);
    dispatch(state, now, emit);
  } while (sendImages() || nextBindAt(state, now) <= now);
}
