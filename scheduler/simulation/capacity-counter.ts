import { HostProfile } from '../leases/capacity/host-profile.ts';

export interface Interval {
  from: number;
  to: number;
}

/** Counts equal slots over time, to generate reservations that fit together. */
export function createCapacityCounter(slots: number): { take: (interval: Interval, count: number) => boolean } {
  const one = { cpuMilli: 1, memoryMiB: 0, diskMiB: 0 };
  const profile = new HostProfile({ cpuMilli: slots, memoryMiB: 0, diskMiB: 0 });
  return {
    take({ from, to }, count) {
      if (profile.fits(from, to, one, count) < count) return false;
      profile.add(from, to, one, count);
      return true;
    },
  };
}
