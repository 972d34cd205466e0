import { noMembers, PlannedMembers } from '../constraints.ts';
import { chooseTarget, type DiskDemand, diskNeededMiB, type TargetFilter, type TargetHost } from '../migration-target.ts';
import { type DrainPlanInput, type DrainTarget, type DrainVm, isDiskMoveOnly, type PlannedMode } from './drain-input.ts';
import type { MigrationOperation, MoveMode } from './migration-operations.ts';

/** How often a VM is sent to the same target at most. */
const maxTriesPerTarget = 2;

/** Targets that are chosen from all that are left; the rest are sorted at once. */
const chosenOneByOne = 4;

/** The targets' capacity as the plan assigns VMs to them. */
export class TargetCapacity {
  readonly #input: DrainPlanInput;
  readonly #hosts: DrainTarget[];
  readonly #members: PlannedMembers;

  constructor(input: DrainPlanInput) {
    this.#input = input;
    this.#members = new PlannedMembers(input.members ?? noMembers);
    this.#hosts = input.hosts.map((host) => ({ ...host, used: { ...host.used } }));
    // VMs that are moving to a host count as given to it.
    for (const vm of input.vms) {
      const { phase } = vm;
      const host = phase.kind === 'moving' ? this.#hosts.find(({ id }) => id === phase.to) : undefined;
      if (host !== undefined) host.given += 1;
    }
  }

  assignTarget(vm: DrainVm): { to: string; mode: PlannedMode } | { why: string } {
    const { host } = this.#input;
    const runsAt = isDiskMoveOnly(vm, host) ? vm.disks?.runsAt : undefined;
    const refused: string[] = [];
    let best: DrainTarget | undefined;
    for (const candidate of this.#preferred(vm, runsAt)) {
      const why = this.#refusalOf(vm, candidate);
      if (why === null) {
        best = candidate;
        break;
      }
      refused.push(`${candidate.id}: ${why}`);
    }
    if (best === undefined)
      return { why: refused.length === 0 ? 'there is no other host' : `no host can take it (${refused.sort().join(', ')})` };
    const demand = this.#demandOf(vm);
    best.used.vcpus += demand.vcpus;
    best.used.memoryMiB += demand.memoryMiB;
    best.freeDiskMiB = (best.freeDiskMiB ?? 0) - diskNeededMiB(demand.disk, best.id);
    if (runsAt !== undefined) return { to: runsAt, mode: 'disks' };
    best.given += 1;
    if (vm.rules != null) {
      this.#members.add(vm.rules, host, -1);
      this.#members.add(vm.rules, best.id);
    }
    return { to: best.id, mode: this.#chooseMode(vm, best.id) };
  }

  /** All other hosts, the best first. Most VMs find their target among the first few, so only these are chosen one by one. */
  *#preferred(vm: DrainVm, runsAt: string | undefined): Generator<DrainTarget> {
    const { host } = this.#input;
    const failures = new Map<string, number>();
    for (const { to } of vm.failed) failures.set(to, (failures.get(to) ?? 0) + 1);
    const failed = ({ id }: DrainTarget) => failures.get(id) ?? 0;
    const free = ({ capacity, used }: DrainTarget) => capacity.memoryMiB - used.memoryMiB;
    // A target at which it failed is tried again only after all others.
    const order = (a: DrainTarget, b: DrainTarget) =>
      failed(a) - failed(b) || a.given - b.given || free(b) - free(a) || (a.id < b.id ? -1 : 1);
    const left = this.#hosts.filter(({ id }) => id !== host && (runsAt === undefined || id === runsAt));
    for (let i = 0; i < chosenOneByOne && left.length > 0; i += 1) {
      let best = 0;
      for (let k = 1; k < left.length; k += 1) if (order(left[k]!, left[best]!) < 0) best = k;
      yield left[best]!;
      left.splice(best, 1);
    }
    yield* left.sort(order);
  }

  /** Reserves disk for a VM's memory on the drained host. @returns why it does not fit; null: it is reserved */
  reserveMemoryFile(vm: DrainVm): string | null {
    const needed = vm.suspended === true ? 0 : vm.memoryMiB;
    const source = this.#source();
    if ((source.freeDiskMiB ?? 0) < needed) return `its memory takes ${needed} MiB of a disk with ${source.freeDiskMiB ?? 0}`;
    source.freeDiskMiB = (source.freeDiskMiB ?? 0) - needed;
    return null;
  }

  #source(): DrainTarget {
    const { host } = this.#input;
    const source = this.#hosts.find(({ id }) => id === host);
    if (source === undefined) throw new Error(`BUG: there is no host ${host}, and a drain of it is planned`);
    return source;
  }

  #refusalOf(vm: DrainVm, candidate: DrainTarget): TargetFilter | string | null {
    const { host } = this.#input;
    const failures = vm.failed.filter(({ to }) => to === candidate.id);
    if (failures.length >= maxTriesPerTarget) return failures.at(-1)!.why;
    const withoutMigrations = (one: DrainTarget): TargetHost => ({ ...one, hasImage: true, arriving: 0, leaving: 0 });
    // Where only its disks follow it, it has its host already.
    const placement = vm.rules == null || isDiskMoveOnly(vm, host) ? null : { rules: vm.rules, members: this.#members.members };
    const moving = { host, ...this.#demandOf(vm), to: candidate.id, placement };
    const choice = chooseTarget(moving, [withoutMigrations(this.#source()), withoutMigrations(candidate)]);
    return choice.kind === 'none' ? (choice.refused[0]?.filter ?? 'refused') : null;
  }

  /** What a VM needs on a target: for a cold migration also disk for its memory. */
  #demandOf(vm: DrainVm): { vcpus: number; memoryMiB: number; disk: DiskDemand } {
    const { host, modes } = this.#input;
    const runsElsewhere = isDiskMoveOnly(vm, host);
    const savesMemory = modes.includes('cold') && !runsElsewhere && vm.paused !== true && vm.ended !== true;
    const asFile = savesMemory ? vm.memoryMiB : 0;
    const disk = { homeHost: vm.disks == null ? null : host, diskMiB: vm.disks?.diskMiB ?? 0, memoryMiB: asFile };
    return vm.suspended === true || runsElsewhere
      ? { vcpus: 0, memoryMiB: 0, disk }
      : { vcpus: vm.vcpus, memoryMiB: vm.memoryMiB, disk };
  }

  /**
   * Live if the pre-copy is expected to converge and has not failed to; else cold. If cold is not allowed, live: the plan
   * counts on the migration's deadline, after which it is aborted.
   */
  #chooseMode(vm: DrainVm, to: string): MoveMode {
    const { host, modes, model } = this.#input;
    if (vm.paused === true) return 'live';
    if (vm.suspended === true || vm.ended === true || !modes.includes('live')) return 'cold';
    if (!modes.includes('cold')) return 'live';
    const live: MigrationOperation = { kind: 'live', from: host, to, load: vm.load, concurrency: 1 };
    return vm.failed.every(({ converges }) => converges) && model.preCopy(live).converges ? 'live' : 'cold';
  }
}
