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
