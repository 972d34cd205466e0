import type { AdmissionDecision } from '../leases/admission.ts';
import { imagesInPlace } from '../leases/image-delivery.ts';
import type { HostSpec, Lease } from '../leases/lease.ts';
import { endLease } from '../leases/lease-lifecycle.ts';
import { decideActions, LeasePlanner } from '../leases/lease-planner.ts';
import { restoreState, type Snapshot } from '../leases/plan-snapshot.ts';
import { createState, type PlanState } from '../leases/plan-state.ts';
import type { SimulatedAction, SimulatedObservation } from './actions.ts';
import type { SimulationPolicy } from './configurations.ts';
import { drainHost, type HostDrainDecision, loseHost, restoreHost } from './host-outages.ts';
import { onTransferred, sendNextImages } from './images/image-prefetch.ts';
import { ImageStore, type ImageStoreData } from './images/image-store.ts';
import { latestTransferStarts } from './images/image-transfers.ts';
import { RepositoryDelivery } from './images/repository-delivery.ts';

/** Drops the past from the timeline after this many decisions. */
const forgetEvery = 64;

export interface SimulatedSnapshot extends Snapshot {
  policy: SimulationPolicy;
  images: ImageStoreData | null;
  pending: SimulatedAction[];
}

/**
 * A planner for a whole simulation. A site's planner is made anew from the ledger's rows for every decision; this one
 * adds what those rows would contain: work that ended, completed migrations, lost and drained hosts, cancelled leases;
 * and the transfer of images.
 */
export class SimulatedPlanner {
  readonly state: PlanState;
  readonly #policy: SimulationPolicy;
  readonly #planner: LeasePlanner;
  readonly #images: ImageStore | null;
  /** Actions that follow from observations; the next decision returns them first. */
  readonly #pending: SimulatedAction[];
  #decisions = 0;

  private constructor(state: PlanState, policy: SimulationPolicy, images: ImageStore | null, pending: SimulatedAction[]) {
    this.state = state;
    this.#policy = policy;
    this.#planner = new LeasePlanner(state);
    this.#images = images;
    this.#pending = pending;
  }

  static create(hosts: readonly HostSpec[], policy: SimulationPolicy): SimulatedPlanner {
    const images = policy.images === null ? null : ImageStore.empty(policy.images, hosts.length);
    return new SimulatedPlanner(createState(hosts, policy, deliveryOf(images)), policy, images, []);
  }

  static restore(snapshot: SimulatedSnapshot): SimulatedPlanner {
    const own = structuredClone(snapshot);
    const { policy, images: data, pending } = own;
    const images = policy.images === null || data === null ? null : new ImageStore(policy.images, data);
    return new SimulatedPlanner(restoreState(own, deliveryOf(images)), policy, images, pending);
  }

  /** The complete state, as plain JSON. */
  snapshot(): SimulatedSnapshot {
    const { hosts, leases, seq } = this.state;
    const images = this.#images?.data() ?? null;
    return structuredClone({ policy: this.#policy, hosts, leases: [...leases.values()], images, pending: this.#pending, seq });
  }

  submit(lease: Lease, now: number): AdmissionDecision {
    return this.#planner.submit(lease, now);
  }

  /** Records an observation. Ignores unknown leases and repeated reports. */
  observe(event: SimulatedObservation, now: number): void {
    switch (event.kind) {
      case 'suspended':
      case 'resumed':
        this.#planner.observe(event, now);
        return;
      case 'transferred':
        if (this.#images !== null) onTransferred(this.state, this.#images, now);
        return;
      case 'ended': {
        const record = this.state.leases.get(event.lease);
        if (record !== undefined) endLease(this.state, record);
        return;
      }
      case 'migrated': {
        const record = this.state.leases.get(event.lease);
        if (record?.phase !== 'migrating') return;
        this.state.underway.delete(record);
        record.phase = 'suspended';
        return;
      }
      case 'hostLost':
        loseHost(this.state, this.#images, event.host, now, (action) => this.#pending.push(action));
        return;
      case 'hostBack':
        restoreHost(this.state, event.host);
        return;
    }
  }

  /** Ends a lease and frees its hosts. Ignores unknown leases. */
  cancel(id: string, now: number): void {
    const record = this.state.leases.get(id);
    if (record === undefined) return;
    if (record.phase !== 'waiting') this.#pending.push({ kind: 'stop', lease: id, atS: now, reason: 'cancelled' });
    endLease(this.state, record);
  }

  /** Empties a host over [from, until). */
  drain(host: string, from: number, until: number, now: number): HostDrainDecision {
    return drainHost(this.state, host, from, until, now);
  }

  /** Every action that is due now, in the order in which the actions must begin. */
  decide(now: number): SimulatedAction[] {
    const actions = this.#pending.splice(0);
    const emit = (action: SimulatedAction) => void actions.push(action);
    if (++this.#decisions % forgetEvery === 0) this.state.timeline.forgetBefore(now);
    const images = this.#images;
    decideActions(this.state, now, emit, () => images !== null && sendNextImages(this.state, images, now, emit));
    return actions;
  }

  /** When the next call of `decide` is due if no event occurs; Infinity: not before an event. */
  wakeAt(now: number): number {
    const at = this.#planner.wakeAt(now);
    if (this.#images === null || this.#images.transfer !== null) return at;
    const transferAt = latestTransferStarts(this.state, this.#images)[0]?.at;
    return transferAt !== undefined && transferAt > now ? Math.min(at, transferAt) : at;
  }
}

const deliveryOf = (images: ImageStore | null) => (images === null ? imagesInPlace : new RepositoryDelivery(images));
