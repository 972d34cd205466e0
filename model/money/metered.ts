import type { Usage } from '../task.ts';
import type { MeteredInterval } from './cost.ts';

/**
 * What a VM is billed for: its residencies, and its disk from its start to its end, also while it is suspended or stopped. The
 * disk counts at the provider of the residency that began last.
 * @param usage its residencies, in their order
 * @param untilMs until when its disk is kept
 */
export function meteredIntervals(usage: readonly Usage[], diskMiB: number, untilMs: number): MeteredInterval[] {
  return usage.flatMap(({ provider, vcpus, memoryMiB, startedAt, endedAt }, index) => {
    const fromMs = Date.parse(startedAt);
    const next = usage[index + 1];
    const diskUntilMs = Math.max(fromMs, next === undefined ? untilMs : Date.parse(next.startedAt));
    return [
      { provider, fromMs, untilMs: Date.parse(endedAt), vcpus, memoryMiB, diskMiB: 0 },
      { provider, fromMs, untilMs: diskUntilMs, vcpus: 0, memoryMiB: 0, diskMiB },
    ];
  });
}

/** What was used, in seconds of a vCPU and of a MiB. */
export interface MeteredSums {
  vcpuSeconds: number;
  memoryMiBSeconds: number;
  diskMiBSeconds: number;
}

/** The sums of intervals: whole milliseconds times whole units, exact until the division. */
export function meteredSums(intervals: readonly MeteredInterval[]): MeteredSums {
  const sum = (of: (one: MeteredInterval) => number) =>
    intervals.reduce((total, one) => total + of(one) * (one.untilMs - one.fromMs), 0) / 1000;
  return {
    vcpuSeconds: sum(({ vcpus }) => vcpus),
    memoryMiBSeconds: sum(({ memoryMiB }) => memoryMiB),
    diskMiBSeconds: sum(({ diskMiB }) => diskMiB),
  };
}

/** The parts of intervals within [fromMs, untilMs). */
export const within = (intervals: readonly MeteredInterval[], fromMs: number, untilMs: number): MeteredInterval[] =>
  intervals
    .map((one) => ({ ...one, fromMs: Math.max(one.fromMs, fromMs), untilMs: Math.min(one.untilMs, untilMs) }))
    .filter((one) => one.fromMs < one.untilMs);

/** What the disks of VMs took, by their usage. @param vms with what the disks of each take */
export const diskMiBSeconds = (
  usage: readonly Usage[],
  vms: readonly { id: string; keptMiB: number }[],
  untilMs: number,
): number => meteredSums(intervalsOf(usage, vms, untilMs)).diskMiBSeconds;

/** The intervals of several VMs, by the usage of all of them. */
export const intervalsOf = (
  usage: readonly Usage[],
  vms: readonly { id: string; keptMiB: number }[],
  untilMs: number,
): MeteredInterval[] =>
  vms.flatMap(({ id, keptMiB }) =>
    meteredIntervals(
      usage.filter(({ vm }) => vm === id),
      keptMiB,
      untilMs,
    ),
  );
