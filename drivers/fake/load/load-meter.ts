import type { DomainCounters, LoadMeter } from '../../ports/load/load-meter.ts';
import { type FakeDomain, type FakeState, fakeBusyCpus } from '../state.ts';

const mib = 2 ** 20;
const defaultCapacity = { vcpus: 8, memoryMiB: 8192, diskMiB: 65_536 };
/** As the default BERTH_VCPU_RATIO. */
const vcpusPerProcessor = 4;
/** Of a domain: what it moves while it keeps a processor busy, over its disks and its network. */
const bytesPerCpuSecond = mib;

/**
 * Counters of a machine on which domains want processors as `loads` says. Where they want more than there are, each gets its share
 * and waits for the rest, as on a real host.
 */
export function createFakeLoadMeter(
  state: Pick<FakeState, 'clock' | 'domains' | 'loads'>,
  capacity = defaultCapacity,
): LoadMeter {
  const processors = Math.max(1, Math.ceil(capacity.vcpus / vcpusPerProcessor));
  const counted = new Map<FakeDomain, DomainCounters>();
  const machine = { atMs: state.clock.nowMs(), busyS: 0, totalS: 0, waitedS: 0 };

  /** Brings all counters up to now. */
  function count(): void {
    const nowMs = state.clock.nowMs();
    const seconds = (nowMs - machine.atMs) / 1000;
    const running = [...state.domains].filter(([, { status }]) => status.state === 'running');
    const wanted = running.reduce((sum, [name]) => sum + fakeBusyCpus(state, name), 0);
    const share = wanted > processors ? processors / wanted : 1;
    machine.atMs = nowMs;
    machine.totalS += seconds;
    machine.busyS += (seconds * Math.min(wanted, processors)) / processors;
    if (share < 1) machine.waitedS += seconds;
    for (const [name, domain] of running) {
      const before = counted.get(domain) ?? zero(name);
      const givenS = fakeBusyCpus(state, name) * share * seconds;
      const moved = givenS * bytesPerCpuSecond;
      counted.set(domain, {
        name,
        cpuNs: before.cpuNs + givenS * 1e9,
        delayNs: before.delayNs + fakeBusyCpus(state, name) * (1 - share) * seconds * 1e9,
        memoryMiB: domain.config.memoryMiB / 2,
        readBytes: before.readBytes + moved,
        writtenBytes: before.writtenBytes + moved,
        receivedBytes: before.receivedBytes + moved,
        sentBytes: before.sentBytes + moved,
      });
    }
    for (const domain of counted.keys()) if (!running.some(([, one]) => one === domain)) counted.delete(domain);
  }

  return {
    nowMs: () => state.clock.nowMs(),
    async readMachine() {
      count();
      const { atMs, busyS, totalS, waitedS } = machine;
      return {
        atMs,
        processors: Array.from({ length: processors }, () => ({ busy: busyS, total: totalS })),
        guests: null,
        pressureUs: { cpu: waitedS * 1e6, memory: 0, io: 0 },
        memory: { totalMiB: capacity.memoryMiB, usedMiB: capacity.memoryMiB / 4 },
        disk: { totalMiB: capacity.diskMiB, usedMiB: capacity.diskMiB / 4 },
        readBytes: busyS * bytesPerCpuSecond,
        writtenBytes: busyS * bytesPerCpuSecond,
        receivedBytes: busyS * bytesPerCpuSecond,
        sentBytes: busyS * bytesPerCpuSecond,
      };
    },
    async readDomains() {
      count();
      return [...counted.values()];
    },
  };
}

const zero = (name: string): DomainCounters => ({
  name,
  cpuNs: 0,
  delayNs: 0,
  memoryMiB: 0,
  readBytes: 0,
  writtenBytes: 0,
  receivedBytes: 0,
  sentBytes: 0,
});
