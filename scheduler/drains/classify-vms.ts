import type { DrainPlanInput, DrainVm, PlannedMode } from './drain-input.ts';
import { TargetCapacity } from './target-capacity.ts';

/** A VM is removed within this time after the end of its lease or command. */
const maxRemovalMs = 20_000;

export interface ClassifiedVms {
  moves: { vm: DrainVm; to: string; mode: PlannedMode }[];
  suspensions: DrainVm[];
  /** VMs that are removed from the host by the deadline without the drain. */
  leaving: { vm: string; byMs: number | null }[];
  /** VMs that can't leave. */
  blockers: { vm: string; why: string }[];
  /** When the last blocker ends by itself; null: at least one never does, or there are none. */
  blockersEndMs: number | null;
  /** VMs that are moving or being suspended already. */
  moving: DrainVm[];
}

/** What happens to each VM: it moves, is suspended in place, ends by itself, or blocks the drain. */
export function classifyVms(input: DrainPlanInput): ClassifiedVms {
  const { deadlineMs, vms } = input;
  const classified: ClassifiedVms = {
    moves: [],
    suspensions: [],
    leaving: [],
    blockers: [],
    blockersEndMs: null,
    moving: [],
  };
  const targets = new TargetCapacity(input);
  const blockedEnds: (number | null)[] = [];
  const block = (vm: DrainVm, why: string) => {
    classified.blockers.push({ vm: vm.id, why });
    blockedEnds.push(vm.endsByMs === null ? null : vm.endsByMs + maxRemovalMs);
  };
  const suspendOrBlock = (vm: DrainVm, why: string) => {
    if (input.suspendInPlace === 'never') return block(vm, why);
    const reason = vm.cannotSuspendReason ?? targets.reserveMemoryFile(vm);
    if (reason === null) classified.suspensions.push(vm);
    else block(vm, `${why}; and it can't be suspended there: ${reason}`);
  };
  for (const vm of [...vms].sort((a, b) => b.memoryMiB - a.memoryMiB || (a.id < b.id ? -1 : 1))) {
    if (vm.phase.kind === 'moving' || vm.phase.kind === 'suspending') classified.moving.push(vm);
    else if (vm.endsByMs !== null && vm.endsByMs + maxRemovalMs <= deadlineMs)
      classified.leaving.push({ vm: vm.id, byMs: vm.endsByMs + maxRemovalMs });
    else if (vm.phase.kind === 'fixed')
      vm.phase.suspendable === true ? suspendOrBlock(vm, vm.phase.why) : block(vm, vm.phase.why);
    else if (vm.phase.kind === 'settling') classified.leaving.push({ vm: vm.id, byMs: null });
    else if (vm.suspended === true && !input.modes.includes('cold'))
      suspendOrBlock(vm, 'it is suspended, and this drain moves VMs live alone');
    else if (vm.ended === true && !input.modes.includes('cold'))
      block(vm, 'it does not run, and this drain moves VMs live alone');
    else if (vm.paused === true && !input.modes.includes('live'))
      suspendOrBlock(vm, 'it is paused, and this drain moves VMs cold alone');
    else {
      const found = targets.assignTarget(vm);
      if ('why' in found) suspendOrBlock(vm, found.why);
      else classified.moves.push({ vm, ...found });
    }
  }
  if (blockedEnds.length > 0 && !blockedEnds.includes(null)) classified.blockersEndMs = Math.max(...(blockedEnds as number[]));
  return classified;
}
