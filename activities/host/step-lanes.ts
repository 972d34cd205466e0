import { Context } from '@temporalio/activity';
import type { HostActivities } from '../../contracts/host.ts';
import { type TurnLimits, Turns } from '../../model/owners/turns.ts';

/**
 * Steps that keep disk, network or processors of the host busy. What only follows or observes a guest, and what removes
 * something, waits for nobody: a slot of the worker costs nothing, and it has more than a host has VMs.
 */
const lanes = {
  transfer: { limits: { total: 64, perOwner: 32 }, steps: ['stageIn', 'stageOut', 'importDisk', 'storeImage'] },
  memory: { limits: { total: 64, perOwner: 32 }, steps: ['ensureRunning', 'customizeVm', 'suspendVm', 'restoreVm'] },
} as const satisfies Record<string, { limits: TurnLimits; steps: readonly (keyof HostActivities)[] }>;

/** The owner of the VM that a step is about: its first argument, or the VM in it. */
function ownerOf(argument: unknown): string {
  const { vm = argument } = argument as { vm?: unknown };
  const { owner } = vm as { owner?: unknown };
  return typeof owner === 'string' ? owner : '';
}

/** The activities of a host, whose heavy steps wait for their owner's turn. The wait is before the VM's lock: a removal does not wait for it. */
export function inLanes(activities: HostActivities): HostActivities {
  const wrapped: Record<string, unknown> = { ...activities };
  for (const { limits, steps } of Object.values(lanes)) {
    const lane = new Turns(limits);
    for (const step of steps) {
      const act = activities[step] as (...args: unknown[]) => Promise<unknown>;
      wrapped[step] = (...args: unknown[]) =>
        lane.run(ownerOf(args[0]), Context.current().cancellationSignal, () => act(...args));
    }
  }
  return wrapped as unknown as HostActivities;
}
