import type { HostProbe } from '../ports/host-probe.ts';
import type { FakeState } from './state.ts';

/** Where a test doesn't say otherwise. */
const defaults = { address: '10.77.0.1', capacity: { vcpus: 8, memoryMiB: 8192, diskMiB: 65_536 } };

export function createFakeHostProbe(
  { id, boot, clock, skew }: Pick<FakeState, 'id' | 'boot' | 'clock' | 'skew'>,
  { address = defaults.address, capacity = defaults.capacity }: Partial<typeof defaults>,
): HostProbe {
  return {
    // Its other times are the fake's own.
    clockMs: () => Date.now() + skew.ms,
    bootedMs: async () => boot.atMs,
    accelerator: async () => 'qemu',
    measure: async () => ({
      hostId: id,
      address,
      provider: 'fake',
      capacity,
      reserve: { vcpus: 0, memoryMiB: 512, diskMiB: 2048 },
      cpuModel: 'fake',
      accelerator: 'qemu',
      hypervisor: 'fake 1.0',
      bootId: `boot-${boot.count}-of-${id}`,
      bootedAgoMs: Math.max(0, clock.nowMs() - boot.atMs),
      machine: `machine-of-${id}`,
    }),
  };
}
