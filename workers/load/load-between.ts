import type { DomainCounters, MachineCounters } from '../../drivers/ports/load/load-meter.ts';
import {
  type HostLoad,
  hostLoadFields,
  type LoadValue,
  loadLimits,
  roundLoad,
  rowOf,
  type VmLoadPoint,
  vmLoadFields,
} from '../../model/load/load.ts';

const mib = 2 ** 20;

/** What was counted until a moment. */
export interface Reading {
  machine: MachineCounters;
  domains: readonly DomainCounters[];
}

/** Seconds between two readings of the machine; 0 where no time has passed. */
export const secondsBetween = (before: MachineCounters, after: MachineCounters): number =>
  Math.max(0, (after.atMs - before.atMs) / 1000);

const share = (part: number, whole: number): number => (whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0);

/** The share of each processor's time in which it was busy. A processor that came or went between the readings is left out. */
export function processorUse(before: MachineCounters, after: MachineCounters): number[] {
  return after.processors.slice(0, before.processors.length).map(({ busy, total }, at) => {
    const first = before.processors[at]!;
    return share(busy - first.busy, total - first.total);
  });
}

/** Of guests alone where their group has a limit; else of the machine, or of the group where it is more. */
export function useBetween(before: MachineCounters, after: MachineCounters): number {
  const each = processorUse(before, after);
  const machine = each.length === 0 ? 0 : each.reduce((sum, one) => sum + one, 0) / each.length;
  const [first, last] = [before.guests, after.guests];
  if (first === null || last === null) return machine;
  const used = share(last.usedS - first.usedS, last.processors * secondsBetween(before, after));
  // A part of each slice of a limit is lost between processors: a group that is stopped in each period has used it up.
  const stopped = share(last.throttledPeriods - first.throttledPeriods, last.periods - first.periods);
  return last.isLimited ? Math.max(used, stopped) : Math.max(used, machine);
}

/** Processors that guests may keep busy. */
export const processorsOf = ({ guests, processors }: MachineCounters): number => guests?.processors ?? processors.length;

/** The pressure of guests; of a group with a limit the machine's says nothing. */
const pressureOf = ({ guests, pressureUs }: MachineCounters): MachineCounters['pressureUs'] =>
  guests === null ? pressureUs : (guests.pressureUs ?? (guests.isLimited ? null : pressureUs));

/** Pressure stall information of the time between; null: the kernel has none. */
export function pressureBetween(before: MachineCounters, after: MachineCounters) {
  const us = secondsBetween(before, after) * 1e6;
  const [first, last] = [pressureOf(before), pressureOf(after)];
  if (first === null || last === null) return null;
  const of = (kind: 'cpu' | 'memory' | 'io') => share(last[kind] - first[kind], us);
  return { cpu: of('cpu'), memory: of('memory'), io: of('io') };
}

/** The domains of both readings; one whose counters fell was started again meanwhile. */
function pairsOf(before: readonly DomainCounters[], after: readonly DomainCounters[]): [DomainCounters, DomainCounters][] {
  const first = new Map(before.map((domain) => [domain.name, domain]));
  return after.flatMap((domain) => {
    const earlier = first.get(domain.name);
    return earlier === undefined || earlier.cpuNs > domain.cpuNs ? [] : [[earlier, domain]];
  });
}

/** What all domains waited for a processor, as a part of what they wanted. */
export function stealBetween(before: readonly DomainCounters[], after: readonly DomainCounters[]): number {
  const pairs = pairsOf(before, after);
  const waited = pairs.reduce((sum, [a, b]) => sum + Math.max(0, b.delayNs - a.delayNs), 0);
  const used = pairs.reduce((sum, [a, b]) => sum + (b.cpuNs - a.cpuNs), 0);
  return share(waited, waited + used);
}

type Moved = Pick<DomainCounters, 'readBytes' | 'writtenBytes' | 'receivedBytes' | 'sentBytes'>;

function ratesBetween(before: Moved, after: Moved, seconds: number) {
  const of = (field: keyof Moved): number => roundLoad(Math.max(0, after[field] - before[field]) / mib / seconds);
  return {
    readMiBPerS: of('readBytes'),
    writtenMiBPerS: of('writtenBytes'),
    receivedMiBPerS: of('receivedBytes'),
    sentMiBPerS: of('sentBytes'),
  };
}

/** The load of a host and of each domain by its name, of the time between two readings; null where no time has passed. */
export function loadBetween(
  before: Reading,
  after: Reading,
  mostUse: number,
): { durationS: number; host: LoadValue[]; vms: Record<string, LoadValue[]> } | null {
  const seconds = secondsBetween(before.machine, after.machine);
  if (seconds <= 0) return null;
  const use = useBetween(before.machine, after.machine);
  const pressure = pressureBetween(before.machine, after.machine);
  const host: HostLoad = {
    use: roundLoad(use),
    mostUse: roundLoad(Math.max(use, mostUse)),
    steal: roundLoad(stealBetween(before.domains, after.domains)),
    cpuPressure: pressure === null ? null : roundLoad(pressure.cpu),
    memoryPressure: pressure === null ? null : roundLoad(pressure.memory),
    ioPressure: pressure === null ? null : roundLoad(pressure.io),
    memoryMiB: Math.round(after.machine.memory.usedMiB),
    diskMiB: Math.round(after.machine.disk.usedMiB),
    ...ratesBetween(before.machine, after.machine, seconds),
  };
  const vms: Record<string, LoadValue[]> = {};
  for (const [first, last] of pairsOf(before.domains, after.domains).slice(0, loadLimits.vmsPerSample)) {
    const cpus = roundLoad((last.cpuNs - first.cpuNs) / 1e9 / seconds);
    const waited = Math.max(0, last.delayNs - first.delayNs);
    const load: VmLoadPoint = {
      cpus,
      mostCpus: cpus,
      steal: roundLoad(share(waited, waited + last.cpuNs - first.cpuNs)),
      memoryMiB: last.memoryMiB === null ? null : Math.round(last.memoryMiB),
      ...ratesBetween(first, last, seconds),
    };
    vms[last.name] = rowOf(vmLoadFields, load);
  }
  return { durationS: roundLoad(seconds), host: rowOf(hostLoadFields, host), vms };
}
