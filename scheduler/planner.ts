import type { Action, Observation } from './actions.ts';
import { admit, type Answer } from './admission.ts';
import { bind } from './binding.ts';
import { dispatch } from './dispatch.ts';
import type { HostSpec, Lease } from './lease.ts';
import { latestTransfers } from './link.ts';
import { migrated } from './migrate.ts';
import type { Policy } from './policy.ts';
import { stage, transferred } from './staging.ts';
import {
  beginsAt,
  claimsOn,
  createState,
  enqueue,
  type LeaseRecord,
  type PlanState,
  rankOf,
  removeFrom,
  setClaims,
  vacatableAt,
  workOf,
} from './state.ts';
import { displacements } from './vacate.ts';

/**
 * Plans the leases of one site. It is told what is asked (`submit`) and what happened (`observe`), and answers what to
 * do now (`decide`) and when to ask again at the latest (`wakeAt`). It has no clock and does nothing itself: the
 * simulator and the site drive the same code. The same calls give the same answers.
 */
export class LeasePlanner {
  readonly state: PlanState;

  constructor(hosts: readonly HostSpec[], policy: Policy) {
    this.state = createState(hosts, policy);
  }

  /** Accepts a lease, with a promise if it is a reservation, or says why not and what could be had instead. */
  submit(lease: Lease, now: number): Answer {
    return admit(this.state, lease, now);
  }

  /** Takes note of what happened. Unknown or already settled leases are ignored: reports may come twice. */
  observe(event: Observation, now: number): void {
    switch (event.saw) {
      case 'transferred':
        transferred(this.state, now);
        return;
      case 'suspended':
        this.with(event.lease, 'suspending', (record) => suspended(this.state, record));
        return;
      case 'resumed':
        this.with(event.lease, 'resuming', (record) => resumed(this.state, record, now));
        return;
      case 'ended': {
        const record = this.state.leases.get(event.lease);
        if (record !== undefined) this.end(record);
        return;
      }
      case 'migrated':
        this.with(event.lease, 'migrating', (record) => migrated(record));
        return;
      case 'hostLost':
      case 'hostBack':
        return;
    }
  }

  /** Everything that is to be done now, in the order in which it is to be begun. */
  decide(now: number): Action[] {
    const actions: Action[] = [];
    const emit = (action: Action) => actions.push(action);
    for (const host of this.state.hosts) host.ops = host.ops.filter((op) => op.until > now);
    // What is started makes hosts slower to vacate, and what is sent makes a reservation's hosts final: look again.
    do {
      this.bindDue(now);
      this.displaceDue(now, emit);
      this.beginDue(now, emit);
      dispatch(this.state, now, emit);
    } while (stage(this.state, now, emit) || this.nextToBind(now) <= now);
    return actions;
  }

  /** When `decide` has something to do again even if nothing happens; Infinity: only when something does. */
  wakeAt(now: number): number {
    let at = Number.POSITIVE_INFINITY;
    const consider = (moment: number | undefined) => {
      if (moment !== undefined && moment > now && moment < at) at = moment;
    };
    consider(this.nextToBind(now));
    consider(this.state.upcoming.map((record) => beginsAt(this.state, record)).find((begins) => begins > now));
    for (const displacement of displacements(this.state)) consider(displacement.at);
    if (this.state.transfer === null) consider(latestTransfers(this.state)[0]?.at);
    return at;
  }

  private with(id: string, phase: LeaseRecord['phase'], act: (record: LeaseRecord) => void): void {
    const record = this.state.leases.get(id);
    if (record?.phase === phase) act(record);
  }

  /** Hosts are made final early enough to vacate any of them. */
  private bindAt(record: LeaseRecord, now: number): number {
    let longest = 0;
    for (let host = 0; host < this.state.hosts.length; host++) {
      longest = Math.max(longest, vacatableAt(this.state, host, now) - now);
    }
    return beginsAt(this.state, record) - this.state.policy.marginS - longest;
  }

  private nextToBind(now: number): number {
    const next = this.state.upcoming.find((record) => !record.bound);
    return next === undefined ? Number.POSITIVE_INFINITY : this.bindAt(next, now);
  }

  private bindDue(now: number): void {
    for (const record of this.state.upcoming) {
      if (record.bound) continue;
      if (this.bindAt(record, now) > now) return;
      bind(this.state, record, now);
    }
  }

  private displaceDue(now: number, emit: (action: Action) => void): void {
    for (const { record, at, ops } of displacements(this.state)) {
      if (at > now) continue;
      if (!this.state.policy.suspension) {
        this.requeue(record);
        emit({ do: 'stop', lease: record.lease.id, atS: now, reason: 'displaced' });
        continue;
      }
      record.workS -= Math.max(0, now - record.runFrom);
      record.phase = 'suspending';
      this.leaveHosts(record);
      const claims = ops.map(({ host, until }) => ({ host, from: now, to: until }));
      setClaims(this.state, record, 'running', claims);
      for (const { host, from, until } of ops) this.state.hosts[host]!.ops.push({ from, until });
      const vms = ops
        .map(({ vm, host, from, until }) => ({ vm, host: this.state.hosts[host]!.spec.id, fromS: from, untilS: until }))
        .sort((a, b) => a.vm - b.vm);
      const until = Math.max(...ops.map((op) => op.until));
      emit({ do: 'suspend', lease: record.lease.id, fromS: now, untilS: until, vms });
    }
  }

  private beginDue(now: number, emit: (action: Action) => void): void {
    for (const record of [...this.state.upcoming]) {
      if (beginsAt(this.state, record) > now) return;
      removeFrom(this.state.upcoming, record);
      record.phase = 'running';
      record.runFrom = now + this.state.policy.bootS;
      record.expectedEnd = record.runFrom + record.workS;
      setClaims(this.state, record, 'promise', claimsOn(record.hosts, now, record.expectedEnd));
      const hosts = record.hosts.map((host) => this.state.hosts[host]!.spec.id);
      const times = { fromS: now, workFromS: record.runFrom, untilS: record.expectedEnd };
      emit({ do: 'start', lease: record.lease.id, hosts, ...times });
    }
  }

  private leaveHosts(record: LeaseRecord): void {
    for (const host of record.hosts) this.state.residents[host]!.delete(record);
  }

  private requeue(record: LeaseRecord): void {
    this.leaveHosts(record);
    setClaims(this.state, record, 'running', []);
    record.phase = 'waiting';
    record.workS = workOf(record.lease, this.state.policy);
    record.hosts = [];
    record.bound = false;
    record.copies = [];
    enqueue(this.state, record);
  }

  private end(record: LeaseRecord): void {
    this.leaveHosts(record);
    setClaims(this.state, record, 'running', []);
    removeFrom(this.state.queue, record);
    removeFrom(this.state.upcoming, record);
    record.phase = 'ended';
    this.state.leases.delete(record.lease.id);
  }
}

function suspended(state: PlanState, record: LeaseRecord): void {
  setClaims(state, record, 'running', []);
  record.phase = 'suspended';
  record.rank = rankOf(record.lease, record.workS, state.policy);
  enqueue(state, record);
}

function resumed(state: PlanState, record: LeaseRecord, now: number): void {
  record.phase = 'running';
  record.runFrom = now;
  record.expectedEnd = now + record.workS;
  setClaims(state, record, record.layer, claimsOn(record.hosts, now, record.expectedEnd));
}

