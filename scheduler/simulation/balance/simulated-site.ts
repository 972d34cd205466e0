import { convergencePolicy } from '../../../model/migration.ts';
import { estimatePreCopy } from '../../drains/pre-copy.ts';
import { migrationLimits } from '../../migration-target.ts';
import { RandomStreams } from './random-streams.ts';
import type { BalanceTrace, TraceVm } from './workload.ts';

/**
 * The hosts and VMs of a simulation, in steps. VMs are slots of arrays, since a simulated month has billions of their steps. What
 * a VM wants does not depend on where it runs, so that all rules are tried on the same demand.
 */

export const stepS = 5;
/** How long a VM stays busy: the median and the spread of a log-normal distribution. No trace is fine enough to say. */
const busyS = { median: 900, sigma: 1.2 } as const;
/** Spikes of one step an hour, to the busy level. */
const spikesPerH = 1;
/** Over a network of 10 Gbit/s; and how much a migration's time differs from its estimate. */
export const network = { miBPerS: 1100, noise: 0.2 } as const;
/** What sending, or receiving, keeps busy on a host. */
const migrationCpus = 1;
const recentS = 30;
const longS = 6 * 3600;
/** What is assumed of a young VM counts as much as this time. */
const priorS = 900;

interface Migration {
  vm: number;
  from: number;
  to: number;
  endsStep: number;
  downtimeS: number;
}

/** What happened to one move, for the figures. */
export interface SimulatedMove {
  vm: number;
  from: number;
  to: number;
  atS: number;
  seconds: number;
  downtimeS: number;
  /** What of it was predicted; null: the rule predicts nothing. */
  predictedGainCpuS: number | null;
}

export class SimulatedSite {
  readonly trace: BalanceTrace;
  readonly random: RandomStreams;
  step = 0;
  /** By host. */
  readonly demand: Float64Array;
  readonly usedVcpus: Float64Array;
  readonly usedMemoryMiB: Float64Array;
  readonly arriving: Int32Array;
  readonly leaving: Int32Array;
  readonly vmsOf: Set<number>[];
  /** By VM of the trace; a host of -1 is none. */
  readonly hostOf: Int32Array;
  readonly level: Float64Array;
  readonly recent: Float64Array;
  readonly mean: Float64Array;
  readonly square: Float64Array;
  readonly moving: Uint8Array;
  readonly movedAtS = new Map<number, number[]>();
  readonly moves: SimulatedMove[] = [];
  refusedArrivals = 0;
  readonly #busy: Uint8Array;
  readonly #spiking: Uint8Array;
  readonly #changesAt: Float64Array;
  readonly #levelUntil: Float64Array;
  readonly #updatedStep: Float64Array;
  readonly #active: number[] = [];
  #migrations: Migration[] = [];
  #arrived = 0;
  /** Called with each move that has ended. */
  onMoved: (move: SimulatedMove) => void = () => {};
  onGone: (vm: number) => void = () => {};

  constructor(trace: BalanceTrace) {
    this.trace = trace;
    const { hosts, vms } = trace;
    this.random = new RandomStreams(vms.length + 1, trace.seed + 17);
    const perHost = () => new Float64Array(hosts);
    const perVm = () => new Float64Array(vms.length);
    this.demand = perHost();
    this.usedVcpus = perHost();
    this.usedMemoryMiB = perHost();
    this.arriving = new Int32Array(hosts);
    this.leaving = new Int32Array(hosts);
    this.vmsOf = Array.from({ length: hosts }, () => new Set<number>());
    this.hostOf = new Int32Array(vms.length).fill(-1);
    this.level = perVm();
    this.recent = perVm();
    this.mean = perVm();
    this.square = perVm();
    this.moving = new Uint8Array(vms.length);
    this.#busy = new Uint8Array(vms.length);
    this.#spiking = new Uint8Array(vms.length);
    this.#changesAt = perVm();
    this.#levelUntil = perVm();
    this.#updatedStep = perVm();
  }

  get nowS(): number {
    return this.step * stepS;
  }

  vm(index: number): TraceVm {
    return this.trace.vms[index]!;
  }

  /** One step: departures, arrivals, migrations that end, and what VMs want from now on. */
  advance(): void {
    this.step += 1;
    const { vms } = this.trace;
    while (this.#arrived < vms.length && vms[this.#arrived]!.arrivesS <= this.nowS) this.#arrive(this.#arrived++);
    if (this.#migrations.some(({ endsStep }) => endsStep <= this.step)) this.#endMigrations();
    for (let i = this.#active.length - 1; i >= 0; i--) {
      const vm = this.#active[i]!;
      if (this.#changesAt[vm]! > this.step) continue;
      if (vms[vm]!.endsS <= this.nowS) this.#leave(i);
      else this.#change(vm);
    }
  }

  #arrive(vm: number): void {
    const { vcpus, memoryMiB, busyCpus, idleCpus, busyPart, endsS } = this.vm(vm);
    if (endsS <= this.nowS) return;
    let best = -1;
    for (let host = 0; host < this.trace.hosts; host++)
      if (this.fits(vm, host) && (best === -1 || this.usedVcpus[host]! < this.usedVcpus[best]!)) best = host;
    if (best === -1) {
      this.refusedArrivals += 1;
      return;
    }
    this.hostOf[vm] = best;
    this.vmsOf[best]!.add(vm);
    this.usedVcpus[best]! += vcpus;
    this.usedMemoryMiB[best]! += memoryMiB;
    this.#active.push(vm);
    // Before it is known, a VM is assumed to be like the others.
    this.mean[vm] = 0.2 * vcpus;
    this.square[vm] = 0.04 * vcpus ** 2 + (0.25 * vcpus) ** 2;
    this.#updatedStep[vm] = this.step;
    this.#busy[vm] = this.random.next(vm) < busyPart ? 1 : 0;
    this.#levelUntil[vm] = this.step + this.#draw(vm);
    this.#spiking[vm] = 0;
    this.recent[vm] = this.#busy[vm] === 1 ? busyCpus : idleCpus;
    this.#setLevel(vm, this.recent[vm]!);
    this.#schedule(vm);
  }

  /** How many steps the VM stays busy, or idle: shorter when its day is busy. */
  #draw(vm: number): number {
    const { busyPart, peakHour } = this.vm(vm);
    const drawn = this.random.logNormal(vm, busyS.median, busyS.sigma);
    if (this.#busy[vm] === 1) return Math.max(1, Math.round(drawn / stepS));
    const hour = peakHour === null ? 0 : 0.6 * Math.cos(((this.nowS / 3600 - peakHour) * Math.PI) / 12);
    return Math.max(1, Math.round((drawn * (1 - busyPart)) / busyPart / (1 + hour) / stepS));
  }

  #schedule(vm: number): void {
    const ends = Math.ceil(this.vm(vm).endsS / stepS);
    const spike =
      this.#busy[vm] === 1 ? Number.POSITIVE_INFINITY : -Math.log(1 - this.random.next(vm)) * (3600 / spikesPerH / stepS);
    const next = this.#spiking[vm] === 1 ? this.step + 1 : Math.min(this.#levelUntil[vm]!, Math.ceil(this.step + spike));
    this.#changesAt[vm] = Math.min(ends, Math.max(this.step + 1, next));
  }

  #change(vm: number): void {
    const { busyCpus, idleCpus } = this.vm(vm);
    const spiking = this.#spiking[vm] === 1;
    if (this.#levelUntil[vm]! <= this.step) {
      this.#busy[vm] = 1 - this.#busy[vm]!;
      this.#levelUntil[vm] = this.step + this.#draw(vm);
      this.#spiking[vm] = 0;
    } else this.#spiking[vm] = spiking || this.#busy[vm] === 1 ? 0 : 1;
    this.#setLevel(vm, this.#busy[vm] === 1 || this.#spiking[vm] === 1 ? busyCpus : idleCpus);
    this.#schedule(vm);
  }

  #setLevel(vm: number, cpus: number): void {
    this.learn(vm);
    this.demand[this.hostOf[vm]!]! += cpus - this.level[vm]!;
    this.level[vm] = cpus;
  }

  /** Brings what is known of the VM's use up to now. */
  learn(vm: number): void {
    const seconds = (this.step - this.#updatedStep[vm]!) * stepS;
    if (seconds === 0) return;
    this.#updatedStep[vm] = this.step;
    const level = this.level[vm]!;
    this.recent[vm] = level + (this.recent[vm]! - level) * Math.exp(-seconds / recentS);
    const { arrivesS, ageS } = this.vm(vm);
    const known = Math.exp(-seconds / Math.min(longS, this.nowS - arrivesS + ageS + priorS));
    this.mean[vm] = level + (this.mean[vm]! - level) * known;
    this.square[vm] = level ** 2 + (this.square[vm]! - level ** 2) * known;
  }

  fits(vm: number, host: number): boolean {
    const { vcpus, memoryMiB } = this.vm(vm);
    const { capacity } = this.trace;
    return this.usedVcpus[host]! + vcpus <= capacity.vcpus && this.usedMemoryMiB[host]! + memoryMiB <= capacity.memoryMiB;
  }

  /** Whether the VM can be moved there now. */
  canMove(vm: number, to: number): boolean {
    const from = this.hostOf[vm]!;
    if (from === -1 || from === to || this.moving[vm] === 1 || !this.fits(vm, to)) return false;
    return this.leaving[from]! < migrationLimits.leaving && this.arriving[to]! < migrationLimits.arriving;
  }

  /** Begins a migration. @param predictedGainCpuS what the rule expects of it */
  move(vm: number, to: number, predictedGainCpuS: number | null = null): void {
    if (!this.canMove(vm, to)) throw new Error(`BUG: VM ${vm} can't move to host ${to}`);
    const from = this.hostOf[vm]!;
    const { vcpus, memoryMiB } = this.vm(vm);
    const share = 1 + Math.max(this.leaving[from]!, this.arriving[to]!);
    const course = estimatePreCopy({
      memoryMiB: memoryMiB * residentPart,
      dirtyMiBPerS: dirtyMiBPerS(this.level[vm]!),
      bandwidthMiBPerS: network.miBPerS / share,
      policy: convergencePolicy,
    });
    // Its own stream, so that the demand is the same with every rule.
    const noise = Math.exp(network.noise * this.random.normal(this.trace.vms.length));
    const seconds = (course.seconds + course.downtimeS) * noise + 1;
    this.moving[vm] = 1;
    this.leaving[from]! += 1;
    this.arriving[to]! += 1;
    this.usedVcpus[to]! += vcpus;
    this.usedMemoryMiB[to]! += memoryMiB;
    this.demand[from]! += migrationCpus;
    this.demand[to]! += migrationCpus;
    const endsStep = this.step + Math.max(1, Math.ceil(seconds / stepS));
    this.#migrations.push({ vm, from, to, endsStep, downtimeS: course.downtimeS });
    this.moves.push({ vm, from, to, atS: this.nowS, seconds, downtimeS: course.downtimeS, predictedGainCpuS });
    this.movedAtS.set(vm, [...(this.movedAtS.get(vm) ?? []), this.nowS]);
  }

  #endMigrations(): void {
    const ended = this.#migrations.filter(({ endsStep }) => endsStep <= this.step);
    this.#migrations = this.#migrations.filter(({ endsStep }) => endsStep > this.step);
    for (const { vm, from, to } of ended) {
      this.#release(vm, from, to, from);
      this.hostOf[vm] = to;
      this.vmsOf[from]!.delete(vm);
      this.vmsOf[to]!.add(vm);
      this.demand[from]! -= this.level[vm]!;
      this.demand[to]! += this.level[vm]!;
      this.onMoved(this.moves.findLast((move) => move.vm === vm)!);
    }
  }

  /** Ends a migration; the VM is no longer counted at one of its hosts. */
  #release(vm: number, from: number, to: number, at: number): void {
    const { vcpus, memoryMiB } = this.vm(vm);
    this.moving[vm] = 0;
    this.leaving[from]! -= 1;
    this.arriving[to]! -= 1;
    this.usedVcpus[at]! -= vcpus;
    this.usedMemoryMiB[at]! -= memoryMiB;
    this.demand[from]! -= migrationCpus;
    this.demand[to]! -= migrationCpus;
  }

  #leave(index: number): void {
    const vm = this.#active[index]!;
    const migration = this.#migrations.find((one) => one.vm === vm);
    if (migration !== undefined) {
      this.#migrations = this.#migrations.filter((one) => one !== migration);
      this.#release(vm, migration.from, migration.to, migration.to);
    }
    const host = this.hostOf[vm]!;
    const { vcpus, memoryMiB } = this.vm(vm);
    this.demand[host]! -= this.level[vm]!;
    this.usedVcpus[host]! -= vcpus;
    this.usedMemoryMiB[host]! -= memoryMiB;
    this.vmsOf[host]!.delete(vm);
    this.hostOf[vm] = -1;
    this.#active[index] = this.#active.at(-1)!;
    this.#active.pop();
    this.onGone(vm);
  }

  /** Where a VM that moves will be. */
  migrations(): readonly { vm: number; from: number; to: number }[] {
    return this.#migrations;
  }
}

/** The part of a VM's memory that is in use. */
export const residentPart = 0.7;
/** What a guest writes: little while idle, more with each processor that it keeps busy. */
export const dirtyMiBPerS = (cpus: number): number => 1 + 20 * cpus;
