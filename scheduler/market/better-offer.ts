import { failedTargetFilter, type MovingVm, type TargetHost } from '../migration-target.ts';

/** A host with what an hour of the VM costs there, in micro-units; null: no offer that the VM may use has it. */
export interface PricedHost extends TargetHost {
  hourMicros: number | null;
}

interface BetterHost {
  host: string;
  hourMicros: number;
}

/**
 * Where a VM costs less than where it is, by at least a share: of the hosts that can take it now the cheapest; among equals the one with
 * the most free memory, then by id. null: there is none. A move costs its owner the downtime of a cold migration, so it has to pay.
 * @param leastShare of the present price, such as 0.1
 */
export function betterHost(vm: Omit<MovingVm, 'to'>, hosts: readonly PricedHost[], leastShare: number): BetterHost | null {
  const source = hosts.find(({ id }) => id === vm.host);
  if (source === undefined || source.hourMicros === null) return null;
  const most = source.hourMicros * (1 - leastShare);
  const freeMemory = ({ capacity, used }: TargetHost): number => capacity.memoryMiB - used.memoryMiB;
  const better = hosts.flatMap((host) =>
    host.hourMicros !== null &&
    host.hourMicros <= most &&
    host.hourMicros < source.hourMicros! &&
    failedTargetFilter(vm, source, host) === null
      ? [{ host, hourMicros: host.hourMicros }]
      : [],
  );
  const [best] = better.sort(
    (a, b) => a.hourMicros - b.hourMicros || freeMemory(b.host) - freeMemory(a.host) || (a.host.id < b.host.id ? -1 : 1),
  );
  return best === undefined ? null : { host: best.host.id, hourMicros: best.hourMicros };
}
