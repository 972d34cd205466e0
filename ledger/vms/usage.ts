import type { Usage } from '../../model/task.ts';

/** A VM of a task, and when its domain existed. */
export interface MeteredVm {
  id: string;
  hostId: string | null;
  provider: string | null;
  vcpus: number;
  memoryMiB: number;
  startedAt: string | null;
  endedAt: string | null;
  /** When it last came back from a suspension. */
  resumedAt: string | null;
  /** It is suspended: whatever it used, its stays say. */
  suspended: boolean;
}

/**
 * What billing needs of one VM; null when its domain never existed. A domain whose end nobody saw counts to `now`.
 * Both times are one host's clock, so their difference is right also where the hosts' clocks differ.
 */
export function usageOf(vm: MeteredVm, now: string): Usage | null {
  if (vm.startedAt === null || vm.hostId === null || vm.provider === null) return null;
  const endedAt = vm.endedAt ?? now;
  const ms = Math.max(0, Date.parse(endedAt) - Date.parse(vm.startedAt));
  return {
    vm: vm.id,
    host: vm.hostId,
    provider: vm.provider,
    vcpus: vm.vcpus,
    memoryMiB: vm.memoryMiB,
    startedAt: vm.startedAt,
    endedAt,
    // Whole milliseconds times whole units: exact until the division.
    vcpuSeconds: (vm.vcpus * ms) / 1000,
    memoryMiBSeconds: (vm.memoryMiB * ms) / 1000,
  };
}

/** A host where the VM ran before it moved on or was suspended. */
export interface Residency {
  hostId: string;
  provider: string;
  /** null: since the stay before it ended, or since the VM's start. */
  since: string | null;
  until: string;
}

/**
 * One entry a host that it was at, in their order: each counts from where the one before ended, so nothing is billed
 * twice and nothing is left out; what it was suspended is between them. A VM that never moved has one.
 * @param residencies in the order in which they ended
 */
export function usageByHost(vm: MeteredVm, residencies: readonly Residency[], now: string): Usage[] {
  const end = vm.endedAt ?? now;
  let from = vm.startedAt;
  const current = { hostId: vm.hostId, provider: vm.provider, since: vm.resumedAt, until: end };
  const parts = [...residencies, ...(vm.suspended ? [] : [current])].map(({ hostId, provider, since, until }) => {
    const startedAt = from === null || since === null ? from : new Date(latest(from, since)).toISOString();
    // The moves were timed by another clock than the VM's start and end: none may reach beyond them.
    const endedAt = startedAt === null ? until : new Date(latest(startedAt, earliest(until, end))).toISOString();
    if (startedAt !== null) from = endedAt;
    return usageOf({ ...vm, hostId, provider, startedAt, endedAt }, now);
  });
  return parts.filter((part) => part !== null);
}

const earliest = (a: string, b: string): string => (Date.parse(a) <= Date.parse(b) ? a : b);
const latest = (a: string, b: string): string => (Date.parse(a) >= Date.parse(b) ? a : b);

export function usageTotals(usage: readonly Usage[]): { vcpuSeconds: number; memoryMiBSeconds: number } {
  const sum = (of: (one: Usage) => number) => usage.reduce((ms, one) => ms + Math.round(of(one) * 1000), 0) / 1000;
  return { vcpuSeconds: sum((one) => one.vcpuSeconds), memoryMiBSeconds: sum((one) => one.memoryMiBSeconds) };
}
