import type { SimulatedAction } from './actions.ts';
import type { Schedule } from './simulator.ts';
import type { Trace, TraceLease } from './trace.ts';

/**
 * Checks a schedule against its trace, from nothing but the two: it shares no code with the planner and believes
 * nothing that the planner says about itself. Returns one sentence for each guarantee that is broken.
 */
export function audit(trace: Trace, schedule: Schedule): string[] {
  const audit = new Audit(trace, schedule);
  audit.checkLeases();
  audit.checkCapacity();
  audit.checkDrains();
  audit.checkOperations();
  audit.checkImageLink();
  audit.checkNetwork();
  audit.checkImages();
  return audit.violations;
}

/** One VM on one host: it takes its share of it over the interval. */
interface Occupancy {
  lease: string;
  host: string;
  from: number;
  to: number;
}

const toleranceS = 1e-6;

class Audit {
  readonly violations: string[] = [];
  private readonly trace: Trace;
  private readonly schedule: Schedule;
  private readonly byLease = new Map<string, SimulatedAction[]>();
  private readonly occupancies: Occupancy[] = [];

  constructor(trace: Trace, schedule: Schedule) {
    this.trace = trace;
    this.schedule = schedule;
    for (const action of schedule.actions) {
      if (!('lease' in action)) continue;
      const list = this.byLease.get(action.lease);
      if (list === undefined) this.byLease.set(action.lease, [action]);
      else list.push(action);
    }
  }

  /** Each lease by itself: all or none of its VMs, its start, its work, nothing lost. */
  checkLeases(): void {
    for (const lease of this.trace.leases) {
      const answer = this.schedule.answers.get(lease.id);
      const actions = this.byLease.get(lease.id) ?? [];
      if (answer === undefined) this.report(`${lease.id} got no answer`);
      else if (!answer.accepted && actions.length > 0) this.report(`${lease.id} was refused, and something was done for it`);
      else if (answer.accepted) {
        this.checkWork(lease, actions);
        if (answer.promise !== null) this.checkPromise(lease, answer.promise, actions);
        if (lease.kind === 'reservation' && answer.promise?.startAtS !== lease.startAtS) {
          this.report(`${lease.id} was promised another start than it asked for`);
        }
      }
    }
  }

  private checkPromise(lease: TraceLease, promise: { startAtS: number }, actions: readonly SimulatedAction[]): void {
    const starts = actions.filter((action) => action.kind === 'start');
    if (starts.length !== 1 || actions.length !== 1)
      this.report(`reservation ${lease.id} was not started just once and left alone`);
    if (starts[0] !== undefined && starts[0].workFromS !== promise.startAtS) {
      this.report(`reservation ${lease.id} was promised ${promise.startAtS} and starts at ${starts[0].workFromS}`);
    }
  }

  /** Walks through what was done for an accepted lease, in order, adding up its work and noting its VMs' stays. */
  private checkWork(lease: TraceLease, actions: readonly SimulatedAction[]): void {
    let hosts: string[] = [];
    let since: number[] | null = null; // of each VM, since when it is on its host
    let workFrom = 0;
    let done = 0;
    let readyAt = lease.submittedAtS;
    const closeOccupancies = (until: (vm: number) => number) => {
      for (const [vm, host] of hosts.entries())
        this.occupancies.push({ lease: lease.id, host, from: since![vm]!, to: until(vm) });
      since = null;
    };
    for (const action of actions) {
      switch (action.kind) {
        case 'start':
        case 'resume': {
          if (since !== null) this.report(`${lease.id} is started while it runs`);
          if (action.fromS < readyAt - toleranceS) this.report(`${lease.id} is started at ${action.fromS}, before ${readyAt}`);
          const there = action.kind === 'start' ? action.hosts : action.vms.map((vm) => vm.host);
          if (there.length !== lease.nodes) this.report(`${lease.id} has ${there.length} of ${lease.nodes} VMs started`);
          if (action.kind === 'resume' && there.join() !== hosts.join())
            this.report(`${lease.id} resumes where its memory is not`);
          if (action.kind === 'start') done = 0;
          else if (action.vms.some((vm) => vm.untilS > action.workFromS + toleranceS))
            this.report(`${lease.id} works before it is read`);
          if (action.kind === 'start' && action.workFromS < action.fromS + (lease.bootS ?? this.schedule.policy.bootS)) {
            this.report(`${lease.id} works before it has booted`);
          }
          hosts = there;
          since = there.map(() => action.fromS);
          workFrom = action.workFromS;
          break;
        }
        case 'suspend':
          if (since === null) this.report(`${lease.id} is suspended while it does not run`);
          else closeOccupancies((vm) => action.vms.find((each) => each.vm === vm)?.untilS ?? Number.POSITIVE_INFINITY);
          if (action.vms.some((vm) => vm.fromS < action.fromS - toleranceS)) this.report(`${lease.id} is written while it works`);
          done += Math.max(0, action.fromS - workFrom);
          readyAt = action.untilS;
          break;
        case 'migrate':
          if (since !== null) this.report(`${lease.id} migrates while it runs`);
          if (action.fromS < readyAt - toleranceS) this.report(`${lease.id} migrates before it is written`);
          for (const { vm, from, to } of action.vms) {
            if (hosts[vm] !== from) this.report(`${lease.id} migrates from where it is not`);
            hosts = hosts.with(vm, to);
          }
          readyAt = action.untilS;
          break;
        case 'stop':
        case 'breakPromise':
          if (since !== null) closeOccupancies(() => action.atS);
          // Also of those that were still to be written.
          for (const stay of this.occupancies) if (stay.lease === lease.id) stay.to = Math.min(stay.to, action.atS);
          readyAt = action.atS;
          break;
      }
    }
    const ended = this.schedule.endedAtS.get(lease.id);
    if (ended === undefined) this.report(`${lease.id} was accepted and never ended`);
    else if (since === null) this.report(`${lease.id} ended while it did not run`);
    else {
      closeOccupancies(() => ended);
      const work = this.workS(lease);
      if (Math.abs(done + ended - workFrom - work) > toleranceS) {
        this.report(`${lease.id} did ${done + ended - workFrom} s of ${work} s of work`);
      }
    }
  }

  private workS(lease: TraceLease): number {
    const asked = Math.min(lease.actualDurationS ?? lease.durationS, lease.durationS);
    return lease.kind === 'bestEffort' ? Math.ceil(asked * (1 + this.schedule.policy.runtimeOverhead) - toleranceS) : asked;
  }

  /** At no moment is more taken of a host than it has. */
  checkCapacity(): void {
    const size = new Map(this.trace.leases.map((lease) => [lease.id, lease]));
    const changes = new Map<string, { at: number; sign: number; lease: TraceLease }[]>();
    for (const stay of this.occupancies) {
      const list = changes.get(stay.host) ?? [];
      changes.set(stay.host, list);
      list.push(
        { at: stay.from, sign: 1, lease: size.get(stay.lease)! },
        { at: stay.to, sign: -1, lease: size.get(stay.lease)! },
      );
    }
    const { vcpus, memoryMiB, diskMiB } = this.trace.hosts;
    for (const [host, list] of changes) {
      list.sort((a, b) => a.at - b.at || a.sign - b.sign);
      const taken = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };
      for (const { at, sign, lease } of list) {
        taken.vcpus += sign * lease.vcpus;
        taken.memoryMiB += sign * lease.memoryMiB;
        taken.diskMiB += sign * (lease.diskMiB ?? 0);
        const over =
          taken.vcpus > vcpus + toleranceS ||
          taken.memoryMiB > memoryMiB + toleranceS ||
          (diskMiB !== undefined && taken.diskMiB > diskMiB + toleranceS);
        if (over) this.report(`${host} holds more than it has at ${at} (${lease.id})`);
      }
    }
  }

  /** Nothing is on a host while it is drained. */
  checkDrains(): void {
    for (const { host, fromS, untilS } of this.schedule.drained) {
      const there = this.occupancies.find(
        (stay) => stay.host === host && stay.from < untilS - toleranceS && stay.to > fromS + toleranceS,
      );
      if (there !== undefined) this.report(`${there.lease} is on ${host} from ${there.from} to ${there.to} while it is drained`);
    }
  }

  /** A host suspends and resumes one VM at a time, and each takes as long as its memory needs. */
  checkOperations(): void {
    const memory = new Map(this.trace.leases.map((lease) => [lease.id, lease.memoryMiB]));
    const byHost = new Map<string, { from: number; to: number; lease: string }[]>();
    for (const action of this.schedule.actions) {
      if (action.kind !== 'suspend' && action.kind !== 'resume') continue;
      if (!this.schedule.policy.suspension) this.report(`${action.lease} is suspended where that is not allowed`);
      for (const vm of action.vms) {
        const list = byHost.get(vm.host) ?? [];
        byHost.set(vm.host, list);
        list.push({ from: vm.fromS, to: vm.untilS, lease: action.lease });
        if (vm.untilS - vm.fromS < memory.get(action.lease)! / this.schedule.policy.suspendMiBPerS - toleranceS) {
          this.report(`the memory of ${action.lease} is written or read faster than ${vm.host} can`);
        }
      }
    }
    for (const [host, list] of byHost) this.checkOneAtATime(`${host} suspends or resumes`, list);
  }

  /** The repository's link carries one image at a time, each as long as it takes. */
  checkImageLink(): void {
    const { images } = this.schedule.policy;
    const transfers = this.schedule.actions.filter((action) => action.kind === 'transfer');
    if (images === null) {
      if (transfers.length > 0) this.report('images are sent where there is no need');
      return;
    }
    for (const transfer of transfers) {
      if (transfer.untilS - transfer.fromS < transfer.imageMiB / images.rateMiBPerS - toleranceS) {
        this.report(`${transfer.image} is sent faster than the link can at ${transfer.fromS}`);
      }
      if (!images.shared && transfer.leases.length !== 1) this.report(`the transfer at ${transfer.fromS} is shared`);
    }
    const list = transfers.map(({ fromS, untilS, leases }) => ({ from: fromS, to: untilS, lease: leases.join(' ') }));
    this.checkOneAtATime('the link sends', list);
  }

  /** A migration takes what its bytes need, and each host's network carries one at a time, and no image besides. */
  checkNetwork(): void {
    const { migration, networkMiBPerS, images } = this.schedule.policy;
    const leases = new Map(this.trace.leases.map((lease) => [lease.id, lease]));
    const byHost = new Map<string, { from: number; to: number; lease: string }[]>();
    for (const action of this.schedule.actions) {
      if (action.kind !== 'migrate' && action.kind !== 'transfer') continue;
      const hosts = action.kind === 'transfer' ? action.hosts : action.vms.flatMap(({ from, to }) => [from, to]);
      const id = action.kind === 'transfer' ? action.image : action.lease;
      for (const host of hosts)
        byHost.set(host, [...(byHost.get(host) ?? []), { from: action.fromS, to: action.untilS, lease: id }]);
      if (action.kind === 'transfer') continue;
      const lease = leases.get(id)!;
      const disk = migration === 'memoryAndDisk' && images !== null ? lease.imageMiB : 0;
      if (migration === 'none') this.report(`${id} migrates where that is not allowed`);
      if (action.untilS - action.fromS < (lease.memoryMiB + disk) / networkMiBPerS - toleranceS)
        this.report(`${id} migrates too fast`);
    }
    for (const [host, list] of byHost) this.checkOneAtATime(`the network of ${host} carries`, list);
  }

  private checkOneAtATime(what: string, list: { from: number; to: number; lease: string }[]): void {
    list.sort((a, b) => a.from - b.from);
    for (const [i, each] of list.entries()) {
      const next = list[i + 1];
      if (next !== undefined && next.from < each.to - toleranceS) this.report(`${what} ${each.lease} and ${next.lease} at once`);
    }
  }

  /** Every VM starts on a host that has its image, sent before; caches keep to their size. */
  checkImages(): void {
    const { images } = this.schedule.policy;
    if (images === null) return;
    const size = new Map(this.trace.leases.map((lease) => [lease.id, lease]));
    const caches = new Map<string, Map<string, number>>(); // host → image → there from
    const copies = new Map<string, { hosts: string[]; from: number }>(); // lease → its own copies
    for (const action of this.schedule.actions) {
      if (action.kind === 'evict') {
        if (caches.get(action.host)?.delete(action.image) !== true)
          this.report(`${action.host} drops ${action.image}, which it has not`);
      } else if (action.kind === 'transfer') {
        for (const id of action.leases) {
          const lease = size.get(id)!;
          if (lease.image !== action.image || lease.imageMiB !== action.imageMiB) this.report(`${id} is sent another image`);
          copies.set(id, { hosts: action.hosts, from: action.untilS });
        }
        if (images.cacheMiB > 0) for (const host of action.hosts) this.addToCache(caches, host, action, images.cacheMiB, size);
      } else if (action.kind === 'start') {
        const lease = size.get(action.lease)!;
        if (lease.imageMiB === 0) continue;
        for (const host of action.hosts) {
          const there = images.cacheMiB > 0 ? caches.get(host)?.get(lease.image) : this.ownCopy(copies.get(lease.id), host);
          if (there === undefined || there > action.fromS + toleranceS)
            this.report(`${lease.id} starts on ${host} without its image`);
        }
        copies.delete(lease.id); // what has run is not pristine any more
      }
    }
  }

  private ownCopy(copy: { hosts: string[]; from: number } | undefined, host: string): number | undefined {
    return copy?.hosts.includes(host) === true ? copy.from : undefined;
  }

  private addToCache(
    caches: Map<string, Map<string, number>>,
    host: string,
    transfer: Extract<SimulatedAction, { kind: 'transfer' }>,
    limitMiB: number,
    leases: ReadonlyMap<string, TraceLease>,
  ): void {
    const cache = caches.get(host) ?? new Map<string, number>();
    caches.set(host, cache);
    cache.set(transfer.image, transfer.untilS);
    const sizes = new Map([...leases.values()].map((lease) => [lease.image, lease.imageMiB]));
    const total = [...cache.keys()].reduce((sum, image) => sum + sizes.get(image)!, 0);
    if (total <= limitMiB + toleranceS) return;
    // Only images in use may exceed the limit: those of VMs that are there, are suspended there, or have yet to start.
    const inUse = new Set([transfer.image]);
    for (const [id, lease] of leases) {
      const ended = this.schedule.endedAtS.get(id) ?? Number.POSITIVE_INFINITY;
      if (
        ended > transfer.fromS &&
        this.byLease.get(id)?.some((action) => action.kind === 'start' && action.hosts.includes(host))
      ) {
        inUse.add(lease.image);
      }
    }
    const idle = [...cache.keys()].filter((image) => !inUse.has(image));
    if (idle.length > 0) this.report(`${host} keeps ${total} MiB of images at ${transfer.fromS}, ${idle.join(' ')} for nothing`);
  }

  private report(what: string): void {
    this.violations.push(what);
  }
}
