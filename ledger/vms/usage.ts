import type { Usage } from '../../model/task.ts';

/** A VM, and when its domain existed. */
interface MeteredVm {
  id: string;
  hostId: string | null;
  provider: string | null;
  vcpus: number;
  memoryMiB: number;
  startedAt: string | null;
  endedAt: string | null;
  /** When it was last restored from a suspension, or started again. */
  resumedAt: string | null;
  /** It has no open residency: all its usage is in those that have ended. */
  suspended: boolean;
}

/**
 * The usage of one VM for billing; null when its domain never existed. A domain whose end was not observed counts until
 * `now`. All times are by the ledger's clock (ledger/ledger-clock.ts): a host's own may differ.
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
    // Integer milliseconds times integer units are exact until the division.
    vcpuSeconds: (vm.vcpus * ms) / 1000,
    memoryMiBSeconds: (vm.memoryMiB * ms) / 1000,
  };
}

/** A time on one host, which ended when the VM migrated, was suspended or stopped. */
export interface Residency {
  hostId: string;
  provider: string;
  /** null: since the residency before it ended, or since the VM's start. */
  since: string | null;
  until: string;
}

/**
 * One entry for each residency, in their order: each counts from the end of the one before, so nothing is billed twice
 * or left out, except for the time in which the VM was suspended. A VM that never migrated has one.
 * @param residencies in the order in which they ended
 */
export function usageByHost(vm: MeteredVm, residencies: readonly Residency[], now: string): Usage[] {
  const end = vm.endedAt ?? now;
  let from = vm.startedAt;
  const current = { hostId: vm.hostId, provider: vm.provider, since: vm.resumedAt, until: end };
  const parts = [...residencies, ...(vm.suspended ? [] : [current])].map(({ hostId, provider, since, until }) => {
    const startedAt = from === null || since === null ? from : new Date(latest(from, since)).toISOString();
    // Its end may be known late, or by a host's estimate: no residency may exceed the VM's start and end.
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
