import type { Action, Observation } from './actions.ts';
import { type AdmissionDecision, admit } from './admission.ts';
import { dispatch } from './dispatch.ts';
import { bindDue, nextBindAt, preemptDue, startDue } from './due-actions.ts';
import { drainHost, type HostDrainDecision, loseHost, restoreHost, undrainHost } from './host-outages.ts';
import { onTransferred, sendNextImages } from './images/image-prefetch.ts';
import { latestTransferStarts } from './images/image-transfers.ts';
import type { HostSpec, Lease } from './lease.ts';
import { endLease, onResumed, onSuspended, settleOverdue } from './lease-lifecycle.ts';
import { onMigrated } from './migrate-suspended.ts';
import { fromSnapshot, type Snapshot, takeSnapshot } from './plan-snapshot.ts';
import { createState, type LeaseRecord, type PlanState, vmStartAt } from './plan-state.ts';
import { describePlan, type PlanView, type Quote } from './plan-view.ts';
import { plannedPreemptions } from './preemption.ts';
import type { Policy } from './site-policy.ts';

/** How many decisions apart the past is dropped from the timeline. */
const forgetEvery = 64;

/**
 * Plans the leases of one site. It is told what is asked (`submit`) and what happened (`observe`), and answers what to
 * do now (`decide`) and when to ask again at the latest (`wakeAt`). It has no clock and does nothing itself: the
 * simulator and the site drive the same code. The same calls give the same answers.
 */
export class LeasePlanner {
  readonly state: PlanState;
  private decisions = 0;

  private constructor(state: PlanState) {
    this.state = state;
  }

  static create(hosts: readonly HostSpec[], policy: Policy): LeasePlanner {
    return new LeasePlanner(createState(hosts, policy));
  }

  /** Goes on where a snapshot was taken. */
  static restore(snapshot: Snapshot): LeasePlanner {
    return new LeasePlanner(fromSnapshot(snapshot));
  }

  /** All that it knows, as plain JSON. */
  snapshot(): Snapshot {
    return takeSnapshot(this.state);
  }

  /** The plan as it stands, with a quote for every lease. */
  plan(now: number): PlanView {
    return describePlan(this.state, now);
  }

  /** What `submit` would answer, and the quote that the lease would get; nothing is booked. */
  quote(lease: Lease, now: number): { answer: AdmissionDecision; quote: Quote | null } {
    const trial = LeasePlanner.restore(this.snapshot());
    const answer = trial.submit(lease, now);
    return { answer, quote: trial.plan(now).quotes.find((each) => each.lease === lease.id) ?? null };
  }

  /** Accepts a lease, with a promise if it is a reservation, or says why not and what could be had instead. */
  submit(lease: Lease, now: number): AdmissionDecision {
    return admit(this.state, lease, now);
  }

  /** Takes note of what happened. Unknown or already settled leases are ignored: reports may come twice. */
  observe(event: Observation, now: number): void {
    switch (event.kind) {
      case 'transferred':
        onTransferred(this.state, now);
        return;
      case 'suspended':
        this.applyInPhase(event.lease, 'suspending', (record) => onSuspended(this.state, record, now));
        return;
      case 'resumed':
        this.applyInPhase(event.lease, 'resuming', (record) => onResumed(this.state, record, now));
        return;
      case 'ended': {
        const record = this.state.leases.get(event.lease);
        if (record !== undefined) endLease(this.state, record);
        return;
      }
      case 'migrated':
        this.applyInPhase(event.lease, 'migrating', (record) => onMigrated(this.state, record));
        return;
      case 'hostLost':
        loseHost(this.state, event.host, now);
        return;
      case 'hostBack':
        restoreHost(this.state, event.host);
        return;
    }
  }

  /** The lease is not wanted any more: whatever it has is given back. Unknown leases are ignored. */
  cancel(id: string, now: number): void {
    const record = this.state.leases.get(id);
    if (record === undefined) return;
    if (record.phase !== 'waiting') this.state.pendingActions.push({ kind: 'stop', lease: id, atS: now, reason: 'cancelled' });
    endLease(this.state, record);
  }

  /** Empties a host over [from, until): see DrainAnswer. */
  drain(host: string, from: number, until: number, now: number): HostDrainDecision {
    return drainHost(this.state, host, from, until, now);
  }

  /** The host is not emptied after all, or takes work again. */
  undrain(host: string): void {
    undrainHost(this.state, host);
  }

  /** Everything that is to be done now, in the order in which it is to be begun. */
  decide(now: number): Action[] {
    const actions: Action[] = this.state.pendingActions.splice(0);
    const emit = (action: Action) => actions.push(action);
    for (const host of this.state.hosts) {
      host.memoryOps = host.memoryOps.filter((op) => op.until > now);
      if (host.drain !== null && host.drain.until <= now) host.drain = null;
    }
    if (++this.decisions % forgetEvery === 0) this.state.timeline.forgetBefore(now);
    settleOverdue(this.state, now, emit);
    // What is started makes hosts slower to vacate, and what is sent makes a reservation's hosts final: look again.
    do {
      bindDue(this.state, now);
      preemptDue(this.state, now, emit);
      startDue(this.state, now, emit);
      dispatch(this.state, now, emit);
    } while (sendNextImages(this.state, now, emit) || nextBindAt(this.state, now) <= now);
    return actions;
  }

  /** When `decide` has something to do again even if nothing happens; Infinity: only when something does. */
  wakeAt(now: number): number {
    let at = Number.POSITIVE_INFINITY;
    const consider = (moment: number | undefined) => {
      if (moment !== undefined && moment > now && moment < at) at = moment;
    };
    consider(nextBindAt(this.state, now));
    consider(this.state.upcoming.map((record) => vmStartAt(this.state, record)).find((begins) => begins > now));
    for (const record of this.state.underway) consider(record.phase === 'running' ? record.expectedEnd : record.operation.until);
    for (const { drain } of this.state.hosts) consider(drain?.until);
    for (const displacement of plannedPreemptions(this.state)) consider(displacement.at);
    if (this.state.transfer === null) consider(latestTransferStarts(this.state)[0]?.at);
    return at;
  }

  private applyInPhase(id: string, phase: LeaseRecord['phase'], act: (record: LeaseRecord) => void): void {
    const record = this.state.leases.get(id);
    if (record?.phase === phase) act(record);
  }
}

/** The same as a pure function: what to do now, the plan after it, and the state to go on from. */
export function plan(snapshot: Snapshot, now: number): { actions: Action[]; plan: PlanView; wakeAtS: number; next: Snapshot } {
  const planner = LeasePlanner.restore(snapshot);
  const actions = planner.decide(now);
  return { actions, plan: planner.plan(now), wakeAtS: planner.wakeAt(now), next: planner.snapshot() };
}
