import type { Resources } from '../model/host.ts';
import {
  type ConstraintAnswer,
  type ConstraintFilter,
  checkConstraints,
  type GroupMembers,
  type LabelledHost,
  type VmRules,
} from './constraints.ts';

/** A host as the target of a migration. */
export interface TargetHost extends LabelledHost {
  state: 'up' | 'unknown';
  acceptsMigrations: boolean;
  accelerator: string;
  cpuModel: string;
  hasImage: boolean;
  capacity: Pick<Resources, 'vcpus' | 'memoryMiB'>;
  used: Pick<Resources, 'vcpus' | 'memoryMiB'>;
  /** Needed if disks move too. */
  freeDiskMiB?: number;
  /** Migrations under way to this host, and from it. */
  arriving: number;
  leaving: number;
}

export interface MovingVm {
  host: string;
  vcpus: number;
  memoryMiB: number;
  /** What it needs of a target's disk: for disks that move with it and are not there yet, and for its memory as a file. */
  disk?: DiskDemand;
  /** The requested target; null: the best one. */
  to: string | null;
  /** Absent: it may run anywhere. */
  placement?: MovingRules | null;
}

/** What its owner says of its hosts, and where the other members of its groups are. */
export interface MovingRules {
  rules: VmRules;
  members: GroupMembers;
}

export interface DiskDemand {
  /** Where its disks are. */
  homeHost: string | null;
  diskMiB: number;
  memoryMiB: number;
}

export const diskNeededMiB = ({ homeHost: home, diskMiB, memoryMiB }: DiskDemand, host: string): number =>
  memoryMiB + (host === home ? 0 : diskMiB);

/** Migrations at a time: they share the network, so that four at once take four times as long. */
export const migrationLimits = { arriving: 2, leaving: 2 } as const;

/** Why a host can't take a VM. The last two are temporary. */
export type TargetFilter =
  | ConstraintFilter
  | 'here'
  | 'unknown'
  | 'closed'
  | 'accelerator'
  | 'cpuModel'
  | 'vcpus'
  | 'memory'
  | 'disk'
  | 'arriving'
  | 'leaving';

type TargetChoice =
  | { kind: 'go'; to: string }
  /** Every host that could take it has the maximum of migrations. */
  | { kind: 'wait'; why: string }
  | { kind: 'none'; refused: { host: string; filter: TargetFilter }[] };

/** The first test that a host fails as the target of a VM, wherever the move was decided; null: it can take the VM. */
export function failedTargetFilter(
  vm: Omit<MovingVm, 'to'>,
  source: Omit<TargetHost, 'hasImage'>,
  host: Omit<TargetHost, 'hasImage'>,
): TargetFilter | null {
  if (host.id === vm.host) return 'here';
  if (host.state !== 'up') return 'unknown';
  if (!host.acceptsMigrations) return 'closed';
  if (host.accelerator !== source.accelerator) return 'accelerator';
  // Under emulation every guest has the same CPU model.
  if (host.accelerator === 'kvm' && host.cpuModel !== source.cpuModel) return 'cpuModel';
  const answer = rulesAt(vm, host);
  if (answer.kind === 'refused') return answer.filter;
  if (host.used.vcpus + vm.vcpus > host.capacity.vcpus) return 'vcpus';
  if (host.used.memoryMiB + vm.memoryMiB > host.capacity.memoryMiB) return 'memory';
  const diskMiB = vm.disk === undefined ? 0 : diskNeededMiB(vm.disk, host.id);
  if (diskMiB > 0 && (host.freeDiskMiB ?? 0) < diskMiB) return 'disk';
  if (host.arriving >= migrationLimits.arriving) return 'arriving';
  return source.leaving >= migrationLimits.leaving ? 'leaving' : null;
}

function rulesAt({ host, placement }: Omit<MovingVm, 'to'>, target: LabelledHost): ConstraintAnswer {
  if (placement == null) return { kind: 'allowed', unmet: 0 };
  return checkConstraints({ host, ...placement.rules }, target, placement.members);
}

/** How many preferred rules the target does not meet. */
function unmetAt(vm: MovingVm, target: LabelledHost): number {
  const answer = rulesAt(vm, target);
  return answer.kind === 'allowed' ? answer.unmet : 0;
}

const temporaryFilters: readonly TargetFilter[] = ['arriving', 'leaving'];
const freeMemory = ({ capacity, used }: TargetHost): number => capacity.memoryMiB - used.memoryMiB;

/**
 * The target of a migration: the host that meets most of the preferred rules, one that has the image before one that must fetch
 * it, among those the one with the most free memory, by id among equals; or the reason for which each host was refused.
 */
export function chooseTarget(vm: MovingVm, hosts: readonly TargetHost[]): TargetChoice {
  const source = hosts.find((host) => host.id === vm.host);
  if (source === undefined) throw new Error(`BUG: there is no host ${vm.host}, and a VM is to leave it`);
  const candidates = hosts.filter((host) => vm.to === null || host.id === vm.to);
  const answers = candidates.map((host) => ({ host, filter: failedTargetFilter(vm, source, host) }));
  const fit = answers.flatMap(({ host, filter }) => (filter === null ? [host] : []));
  const best = fit.sort(
    (a, b) =>
      unmetAt(vm, a) - unmetAt(vm, b) ||
      Number(b.hasImage) - Number(a.hasImage) ||
      freeMemory(b) - freeMemory(a) ||
      (a.id < b.id ? -1 : 1),
  )[0];
  if (best !== undefined) return { kind: 'go', to: best.id };
  const refused = answers.flatMap(({ host, filter }) => (filter === null ? [] : [{ host: host.id, filter }]));
  const later = refused.filter(({ filter }) => temporaryFilters.includes(filter));
  if (later.length === 0) return { kind: 'none', refused };
  return { kind: 'wait', why: later.map(({ host, filter }) => `${host}: as many are ${filter} as may be`).join('; ') };
}
