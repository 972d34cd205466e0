import { OwnerUsageData, ownerUsageTypes, UsageRecordedData, usageRecordedType } from '../books/usage-event.ts';
import { eventId, TaskEndedData, taskEventTypes, VmRemovedData, vmEventTypes } from '../events.ts';
import type { Usage } from '../task.ts';
import type { MeteredInterval } from './cost.ts';
import { meteredIntervals, meteredSums } from './metered.ts';

/** Usage of one VM at one provider, or of an owner's files and ports, within an interval that no other line of it overlaps. */
export interface UsageLine {
  /** Names it for good: a line that is read twice is known by it. */
  id: string;
  owner: string;
  /** null: of files and ports. */
  vm: string | null;
  task: string | null;
  provider: string | null;
  /** RFC 3339 */
  from: string;
  until: string;
  vcpuSeconds: number;
  memoryMiBSeconds: number;
  diskMiBSeconds: number;
  repositoryByteSeconds: number;
  portSeconds: number;
}

/** An event of usage, as the ledger has it. */
export interface UsageEvent {
  id: string;
  type: string;
  ownerId: string;
  time: Date;
  data: unknown;
}

const { succeeded, failed, cancelled } = taskEventTypes;
/** Events whose lines together are all usage, once. */
export const usageEventTypes: readonly string[] = [
  usageRecordedType,
  ownerUsageTypes.recorded,
  vmEventTypes.removed,
  succeeded,
  failed,
  cancelled,
];

const none = { vcpuSeconds: 0, memoryMiBSeconds: 0, diskMiBSeconds: 0, repositoryByteSeconds: 0, portSeconds: 0 };
const noVm = { vm: null, task: null, provider: null };

/** What an event of an end says, and which lines there may be of it already. */
interface EndOfUsage {
  task: string | null;
  usage: readonly Usage[];
  diskMiBSeconds: number;
}

const endOf = ({ type, data }: UsageEvent): EndOfUsage => {
  const ended = type === vmEventTypes.removed ? VmRemovedData.parse(data) : TaskEndedData.parse(data);
  return {
    task: ended.task,
    usage: ended.usage as readonly Usage[],
    // Events of earlier versions do not have it.
    diskMiBSeconds: ended.diskMiBSeconds ?? 0,
  };
};

const isRecorded = (type: string): boolean => type === usageRecordedType || type === ownerUsageTypes.recorded;

/** The id of the hourly event that has the last of a VM's usage, if it had any: written with the event of its end. */
export function lastRecordOf(event: UsageEvent): string | null {
  if (isRecorded(event.type)) return null;
  const vm = endOf(event).usage[0]?.vm;
  return vm === undefined ? null : eventId(vm, usageRecordedType, event.time.getTime());
}

/** @param recorded the hourly events of its VMs have all of its usage: its own event adds none */
export function usageLines(event: UsageEvent, recorded: boolean): UsageLine[] {
  if (event.type === usageRecordedType) return recordedLines(event);
  if (event.type === ownerUsageTypes.recorded) {
    const { owner, from, until, repositoryByteSeconds, portSeconds } = OwnerUsageData.parse(event.data);
    return [{ ...none, ...noVm, id: event.id, owner, from, until, repositoryByteSeconds, portSeconds }];
  }
  return recorded ? [] : linesOfEnd(event);
}

function recordedLines({ id, data }: UsageEvent): UsageLine[] {
  const { vm, owner, task, from, until, usage } = UsageRecordedData.parse(data);
  return usage.map(({ provider, ...sums }) => ({
    ...none,
    ...sums,
    id: `${id}/${provider}`,
    owner,
    vm,
    task,
    provider,
    from,
    until,
  }));
}

function linesOfEnd(event: UsageEvent): UsageLine[] {
  const { task, usage, diskMiBSeconds } = endOf(event);
  const untilMs = event.time.getTime();
  const byVm = Map.groupBy(usage, ({ vm }) => vm);
  const intervalsOf = (of: readonly Usage[], keptMiB: number): MeteredInterval[] => meteredIntervals(of, keptMiB, untilMs);
  // VMs of a task have disks of one size, which the event does not say.
  const ofOneMiB = meteredSums([...byVm.values()].flatMap((of) => intervalsOf(of, 1))).diskMiBSeconds;
  const keptMiB = ofOneMiB === 0 ? 0 : Math.round(diskMiBSeconds / ofOneMiB);
  return [...byVm].flatMap(([vm, of]) => {
    const byProvider = Map.groupBy(intervalsOf(of, keptMiB), ({ provider }) => provider);
    return [...byProvider].map(([provider, intervals]) => ({
      ...none,
      ...meteredSums(intervals),
      id: `${event.id}/${vm}/${provider}`,
      owner: event.ownerId,
      vm,
      task,
      provider,
      from: of[0]!.startedAt,
      until: event.time.toISOString(),
    }));
  });
}

/**
 * A line as a CloudEvent of usage: its subject is who used it, and its data has numbers to be summed (OpenMeter's meters: `type`, a
 * `valueProperty` such as `$.vcpuSeconds`, `groupBy` `$.provider`).
 */
export function usageCloudEvent({ id, owner, ...line }: UsageLine) {
  const { vm, task, provider, from, until, repositoryByteSeconds, portSeconds, ...ofVm } = line;
  const ofOwner = { from, until, repositoryByteSeconds, portSeconds };
  return {
    specversion: '1.0' as const,
    id,
    source: '/berth/usage',
    type: vm === null ? 'berth.usage.owner' : 'berth.usage.vm',
    subject: owner,
    time: until,
    datacontenttype: 'application/json' as const,
    data: vm === null ? ofOwner : { vm, task, provider, from, until, ...ofVm },
  };
}
